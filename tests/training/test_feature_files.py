"""Features that were made elsewhere, one file a video."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from pipeline.config import Sampling
from pipeline.errors import OptionError, SourceError
from pipeline.recognition.recognizer import EXTERNAL_FEATURES
from pipeline.training.feature_files import open_feature_files, read_features, read_shape


def rows(count, size=3):
    """Features whose first value is the number of the frame."""
    return np.repeat(np.arange(count)[:, None], size, axis=1).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "a.npy", rows(30))
    np.savez(tmp_path / "b.npz", features=rows(45))
    (tmp_path / "splits.csv").write_text("split,video,part\n")
    return tmp_path


def opened(folder, fps=15.0, sampling=None):
    return open_feature_files(folder, fps, sampling)


def read(files):
    """Read all sampled rows by name of the video."""
    found = {}
    for video in files.videos:
        (part,) = files.stream(video.video_id)
        found[video.path.rsplit("/", 1)[-1]] = part
    return found


class TestReading:
    def test_each_file_is_a_video(self, folder):
        files = opened(folder)

        assert list(files.paths) == ["a", "b"]
        parts = read(files)
        assert parts["a.npy"].values.shape == (30, 3)
        assert parts["b.npz"].values[:, 0].tolist() == list(range(45))
        assert parts["a.npy"].pts_seconds[-1] == pytest.approx(29 / 15)
        (report,) = files.reports(files.videos[1].video_id)
        assert (report.status, report.frames_sampled, report.duration_seconds) == ("ok", 45, 3.0)

    def test_they_are_described_for_a_recognizer(self, folder):
        spec = opened(folder).backbone

        assert (spec.name, spec.feature_size) == (EXTERNAL_FEATURES, 3)

    @pytest.mark.parametrize(
        ("sampling", "wanted"),
        [
            (Sampling(every=10), [0, 10, 20]),
            (Sampling(fps=15), list(range(30))),
            (Sampling(fps=5), list(range(0, 30, 3))),
            (Sampling(fps=10), [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22, 24, 25, 27,
                                28]),
        ],
    )  # fmt: skip
    def test_rows_are_sampled_like_frames_of_a_video(self, folder, sampling, wanted):
        part = read(opened(folder, sampling=sampling))["a.npy"]

        assert part.frame_index.tolist() == part.values[:, 0].tolist() == wanted
        assert part.sample_index.tolist() == list(range(len(wanted)))

    def test_files_of_features_by_frames_are_transposed(self, tmp_path):
        np.save(tmp_path / "a.npy", rows(30).T)
        np.savez(tmp_path / "b.npz", features=rows(45).T)
        files = opened(tmp_path)

        assert files.backbone.feature_size == 3
        assert read(files)["b.npz"].values.shape == (45, 3)
        assert files.reports(files.videos[0].video_id)[0].frames_decoded == 30


class TestMistakes:
    def test_a_folder_without_features(self, tmp_path):
        with pytest.raises(SourceError, match=r"has no \.npy or \.npz file"):
            opened(tmp_path)

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(SourceError, match="is no folder"):
            opened(tmp_path / "nowhere")

    def test_two_files_of_one_name(self, folder):
        np.save(folder / "b.npy", rows(4))

        with pytest.raises(SourceError, match="have one name"):
            opened(folder)

    def test_a_missing_rate(self, folder):
        with pytest.raises(OptionError, match="add --features-fps"):
            opened(folder, fps=None)

    def test_more_frames_than_there_are(self, folder):
        with pytest.raises(OptionError, match="30 frames a second cannot be sampled"):
            opened(folder, sampling=Sampling(fps=30))

    def test_different_sizes(self, folder):
        np.save(folder / "c.npy", rows(10, size=4))

        with pytest.raises(SourceError, match=r"a\.npy: 3, b\.npz: 3, c\.npy: 4"):
            opened(folder).backbone  # noqa: B018

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
    def test_values_that_float16_cannot_hold(self, tmp_path, value):
        np.save(tmp_path / "a.npy", np.full((2, 2), value))

        with pytest.raises(SourceError, match="must hold finite numbers up to 65504"):
            read_features(tmp_path / "a.npy")

    @pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 3, 4))])
    def test_other_shapes(self, tmp_path, array):
        np.save(tmp_path / "a.npy", array)

        with pytest.raises(SourceError, match=r"must hold features of shape \(T, D\)"):
            read_shape(tmp_path / "a.npy")

    def test_an_archive_without_features(self, tmp_path):
        np.savez(tmp_path / "a.npz", labels=np.zeros(3))

        with pytest.raises(SourceError, match="the array must be named features"):
            read_shape(tmp_path / "a.npz")

    @pytest.mark.parametrize("name", ["a.npy", "a.npz"])
    @pytest.mark.parametrize("content", [b"", b"nothing of this kind", pickle.dumps([1])])
    def test_damaged_files(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)

        for reading in (read_shape, read_features):
            with pytest.raises(SourceError, match="cannot be read"):
                reading(tmp_path / name)

    def test_pickled_objects_are_not_loaded(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[{}]], object), allow_pickle=True)

        with pytest.raises(SourceError, match="cannot be read"):
            read_features(tmp_path / "a.npy")
