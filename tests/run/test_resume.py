"""Videos that a later version decodes differently are processed again, and only they."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.decode import versions
from pipeline.decode.versions import Change
from pipeline.results.tables import load
from pipeline.run.features import ensure_features, missing_features
from pipeline.run.load import open_session
from pipeline.run.process import process_videos
from pipeline.sources.discovery import find_videos
from tests.videos import write_video

LARGE = Change("large frames are sharper", lambda video, report: (report.width or 0) > 100)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "large.mp4", 30, size=(128, 64))
    write_video(tmp_path / "videos" / "small.mp4", 30, first=200)
    return tmp_path


@pytest.fixture
def options(folder, tiny_recognizer):
    return RunOptions(
        recognizer=str(tiny_recognizer),
        features=str(folder / "features"),
        encode=EncodeOptions(device="cpu", precision="float32", batch_size=4),
        decode=DecodeOptions(workers=1),
    )


@pytest.fixture
def run(folder, options):
    def run(out="out"):
        """Run once; give the counts, and the rows of `videos` by file name."""
        found = process_videos([str(folder / "videos")], folder / out, options)
        rows = load(folder / out, "videos")
        assert len(rows) == 2
        return found["counts"], rows.set_index(rows.video.str.rsplit("/").str[-1])

    return run


@pytest.fixture
def change(monkeypatch):
    def change():
        monkeypatch.setattr(versions, "CHANGES", (*versions.CHANGES, LARGE))
        return versions.decoding_version()

    return change


def test_rows_of_deleted_files_are_kept_and_told(run, folder, caplog):
    run()
    (folder / "videos" / "small.mp4").unlink()
    (folder / "videos" / "large.mp4").rename(folder / "videos" / "moved.mp4")

    _, rows = run()

    assert sorted(rows.index) == ["moved.mp4", "small.mp4"]
    assert "rows of 1 files that no longer exist, such as " in caplog.text
    assert "small.mp4: clipline forget " in caplog.text


def strip_versions(path):
    """Write a table as an earlier Clipline did, without versions."""
    for part in path.glob("part-*.parquet"):
        pd.read_parquet(part).drop(columns="decoding_version").to_parquet(part)


def test_affected_videos_are_processed_again_with_a_reason(run, change, caplog):
    _, before = run()
    new = change()

    counts, rows = run()

    assert (counts["videos_skipped"], counts["videos_done"]) == (1, 1)
    assert counts["frames_decoded"] == 30
    assert rows.decoding_version.to_dict() == {
        "large.mp4": new,
        "small.mp4": before.decoding_version["small.mp4"],
    }
    assert "1 video is decoded again" in caplog.text
    assert LARGE.reason in caplog.text


def test_they_are_processed_once(run, change, caplog):
    run()
    change()
    run()
    caplog.clear()

    counts, _ = run()

    assert (counts["videos_skipped"], counts["frames_decoded"]) == (2, 0)
    assert caplog.text == ""


def test_rows_without_a_version_are_of_the_first_one(run, change, folder):
    run()
    strip_versions(folder / "out" / "videos")
    change()

    counts, rows = run()

    assert counts["videos_skipped"] == 1
    assert rows.decoding_version.notna().to_dict() == {"large.mp4": True, "small.mp4": False}


def test_new_rows_do_not_use_outdated_features(run, change, caplog):
    run()
    change()

    counts, _ = run("other")

    assert counts["videos_done"] == 2
    assert (counts["frames_decoded"], counts["frames_reused"] > 0) == (30, True)
    assert "1 video is decoded again" in caplog.text


def test_outdated_rows_use_features_that_are_new(run, change):
    run()
    change()
    run("other")

    counts, _ = run()

    assert (counts["videos_done"], counts["frames_decoded"]) == (1, 0)


def test_features_for_training_are_computed_again(folder, options, change, engine_cache, caplog):
    plain = RunOptions(
        recognizer=None,
        backbone="random:test_resnet",
        sampling=Sampling(fps=10),
        features=options.features,
        encode=options.encode,
        decode=options.decode,
    )
    videos = find_videos([str(folder / "videos")])
    with open_session(None, plain, engine_cache) as session:
        ensure_features(session, videos)
    change()
    with open_session(None, plain, engine_cache) as session:
        missing = missing_features(session, videos)
        ensure_features(session, videos)

        assert [video.path.rsplit("/", 1)[1] for video in missing] == ["large.mp4"]
        assert missing_features(session, videos) == []
    assert caplog.text.count("1 video is decoded again") == 1
