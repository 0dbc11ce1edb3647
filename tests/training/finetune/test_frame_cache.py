"""The cache of decoded frames, one for each sampling and geometry."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import DecodeOptions, EncodeOptions, Geometry, RunOptions, Sampling
from pipeline.decode import process_pool
from pipeline.encode.backbone import load_backbone
from pipeline.errors import MachineError, VideoError
from pipeline.progress import RunProgress
from pipeline.run import stages
from pipeline.run.load import open_session
from pipeline.run.planner import Planner
from pipeline.sources.discovery import find_videos
from pipeline.training.finetune import frame_cache
from pipeline.training.finetune.frame_cache import cache_frames, frame_cache_of
from tests.videos import draw_number, write_video

RUN = RunOptions(
    recognizer=None,
    backbone="random:test_resnet",
    sampling=Sampling(fps=6),
    encode=EncodeOptions(device="cpu", precision="float32"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", 48, fps=24)
    write_video(folder / "b.mp4", 24, fps=24, first=100)
    return folder


@pytest.fixture(scope="module")
def videos(folder):
    return find_videos([str(folder)])


@pytest.fixture
def opened(tmp_path, engine_cache):
    """Open sessions that share a folder of features."""

    def open_(**options):
        given = replace(RUN, features=str(tmp_path / "features"), **options)
        return open_session(None, given, engine_cache)

    return open_


def test_row_k_is_sample_k(opened, videos):
    with opened() as session:
        cache = cache_frames(session, videos)

    kept = cache.read(videos[0].video_id, np.arange(12))

    assert kept.shape == (12, *cache.size, 3)
    assert kept.dtype == np.uint8
    level = kept[:, 60, 30].mean(-1)  # of the part below the bar code
    expected = [draw_number(4 * k)[40, 10, 0] for k in range(12)]
    np.testing.assert_allclose(level, expected, atol=4)


def test_frames_equal_those_that_are_encoded(opened, videos):
    with opened() as session:
        cache = cache_frames(session, videos[1:])
        (shard,) = Planner.of_session(session, RunProgress()).plan(videos[1:])
        decoded = stages.decode(session, shard)
        wanted = session.engine.preprocess(decoded.batches[0].images).numpy()

        np.testing.assert_array_equal(cache.read(videos[1].video_id, np.arange(6)), wanted)


def test_samples_are_read_in_the_requested_order(opened, videos):
    with opened() as session:
        cache = cache_frames(session, videos)
    everything = cache.read(videos[0].video_id, np.arange(12))

    found = cache.read(videos[0].video_id, np.array([7, 2]))

    np.testing.assert_array_equal(found, everything[[7, 2]])


def test_the_second_time_nothing_is_decoded(opened, videos, monkeypatch):
    with opened() as session:
        cache_frames(session, videos)
    with opened() as session:
        monkeypatch.setattr(frame_cache, "decode_chunk", lambda *_: pytest.fail("decoded again"))
        cache_frames(session, videos)


def test_a_long_video_is_decoded_in_chunks(opened, videos, monkeypatch):
    with opened() as session:
        cache = cache_frames(session, videos)
        whole = cache.path(videos[0].video_id).read_bytes()
        cache.path(videos[0].video_id).unlink()
        monkeypatch.setattr(frame_cache, "CHUNK_BYTES", 5 * 64 * 96 * 3)

        cache_frames(session, videos)

    assert cache.path(videos[0].video_id).read_bytes() == whole


def test_frames_are_resized_a_few_at_a_time(opened, videos, monkeypatch):
    """A whole chunk would not fit a small device."""
    with opened() as session:
        cache = cache_frames(session, videos)
        whole = cache.path(videos[0].video_id).read_bytes()
        cache.path(videos[0].video_id).unlink()
        right, seen = session.engine.preprocess, []
        monkeypatch.setattr(
            session.engine, "preprocess", lambda f: (seen.append(len(f)), right(f))[1]
        )
        monkeypatch.setattr(process_pool, "RING_BYTES", 20 * 72 * 96 * 3)  # a fourth is looked at

        cache_frames(session, videos)

    assert seen == [5, 5, 2]
    assert cache.path(videos[0].video_id).read_bytes() == whole


@pytest.mark.parametrize("other", [{"sampling": Sampling(fps=3)}, {"sampling": Sampling(every=4)}])
def test_another_sampling_is_another_folder(opened, videos, other):
    with opened() as session:
        one = cache_frames(session, videos)
    with opened(**other) as session:
        two = cache_frames(session, videos)

        assert two.has(videos[0].video_id)
    assert one.folder != two.folder


def test_another_geometry_is_another_folder(tmp_path):
    backbone = load_backbone("random:test_resnet")
    small = replace(backbone, geometry=Geometry(32, 48))
    folders = {
        frame_cache_of(tmp_path, each, Sampling(fps=8)).folder
        for each in (backbone, small, replace(backbone, interpolation="bicubic"))
    }

    assert len(folders) == 3
    assert frame_cache_of(tmp_path, small, Sampling(fps=8)).size == (32, 48)


def test_other_weights_share_the_cache(tmp_path):
    backbone = load_backbone("random:test_resnet")
    tuned = replace(backbone, weights_hash="0" * 32)

    assert frame_cache_of(tmp_path, tuned, Sampling(fps=8)) == frame_cache_of(
        tmp_path, backbone, Sampling(fps=8)
    )


def test_an_interrupted_video_is_not_cached(opened, videos, monkeypatch):
    def fails(*_):
        raise OSError("No space left on device")

    with opened() as session:
        cache = cache_frames(session, videos[1:])
        with monkeypatch.context() as patched:
            patched.setattr(frame_cache, "_rows", fails)
            with pytest.raises(OSError, match="No space left"):
                cache_frames(session, videos)
        assert not cache.has(videos[0].video_id)

        cache_frames(session, videos)

    assert cache.has(videos[0].video_id)
    assert list(cache.folder.glob(".*.new")) == []


def test_other_videos_are_written_before_an_error_is_raised(opened, videos, monkeypatch):
    """Else a retry would delete the temporary files of jobs that still write."""
    decode, started, finished = frame_cache._decode, threading.Event(), []

    def decoding(process, video, session):
        if video == videos[0]:
            started.wait(20)
            raise MachineError("the decode process died")
        started.set()
        time.sleep(0.5)
        yield from decode(process, video, session)
        finished.append(video)

    monkeypatch.setattr(frame_cache, "_decode", decoding)
    with opened(decode=DecodeOptions(workers=2)) as session:
        with pytest.raises(MachineError, match="the decode process died"):
            cache_frames(session, videos)

        assert finished == [videos[1]]


def test_a_video_that_cannot_be_read_fails(opened, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")

    with opened() as session, pytest.raises(VideoError, match="a text file"):
        cache_frames(session, find_videos([str(tmp_path / "text.mp4")]))


class TestRead:
    @pytest.fixture
    def cache(self, tmp_path):
        made = frame_cache_of(tmp_path, load_backbone("random:test_resnet"), Sampling(fps=8))
        made.folder.mkdir(parents=True)
        rows = np.zeros(3, made.dtype)
        rows["present"] = [True, False, True]
        rows.tofile(made.path("v"))
        return made

    def test_present_samples_are_read(self, cache):
        assert len(cache.read("v", np.array([0, 2]))) == 2

    def test_a_sample_that_was_not_decoded_fails(self, cache):
        with pytest.raises(MachineError, match=r"v.pictures lacks samples .* delete it"):
            cache.read("v", np.array([0, 1]))

    @pytest.mark.parametrize("samples", [[3], [0, 9]])
    def test_a_sample_after_the_end_fails(self, cache, samples):
        with pytest.raises(MachineError, match=r"v.pictures is damaged: .*out of bounds"):
            cache.read("v", np.array(samples))

    def test_a_truncated_file_fails(self, cache):
        path = cache.path("v")
        path.write_bytes(path.read_bytes()[:-5])

        with pytest.raises(MachineError, match=r"v.pictures is damaged: .*delete it"):
            cache.read("v", np.array([0]))
