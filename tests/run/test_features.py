"""Features are computed once, whoever needs them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling, ShardOptions
from pipeline.decode.process_pool import StartFailed
from pipeline.errors import EngineError
from pipeline.progress import RunProgress
from pipeline.run import indexing, stages
from pipeline.run.features import ensure_features, missing_features
from pipeline.run.load import open_session
from pipeline.run.process import Stages, process_shard, process_videos
from pipeline.sources.discovery import find_videos
from tests.videos import write_video


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "short.mp4", 30)
    write_video(tmp_path / "videos" / "long.mp4", 90, first=200)
    return tmp_path


@pytest.fixture
def videos(folder):
    return find_videos([str(folder / "videos")])


@pytest.fixture
def options(folder):
    return RunOptions(
        recognizer=None,
        backbone="random:test_resnet",
        sampling=Sampling(fps=10),
        features=str(folder / "features"),
        encode=EncodeOptions(device="cpu", precision="float32", batch_size=4),
        decode=DecodeOptions(workers=1),
    )


@pytest.fixture
def opened(options, engine_cache):
    def open_(**changes):
        return open_session(None, replace(options, **changes), engine_cache)

    return open_


def test_what_is_missing_is_computed_and_nothing_twice(opened, videos):
    first, second = RunProgress(), RunProgress()
    with opened() as session:
        assert missing_features(session, videos) == videos
        assert ensure_features(session, videos[:1], first) == {}
        assert missing_features(session, videos) == videos[1:]
        assert ensure_features(session, videos, second) == {}

    encoded = {"long.mp4": 30, "short.mp4": 10}
    names = [video.path.rsplit("/", 1)[1] for video in videos]
    assert (first.videos_done, first.frames_encoded) == (1, encoded[names[0]])
    assert (second.videos_skipped, second.videos_done) == (1, 1)
    assert second.frames_encoded == encoded[names[1]]


def test_a_long_video_is_counted_once(opened, videos):
    progress = RunProgress()
    with opened(shards=ShardOptions(max_frames=8)) as session:
        ensure_features(session, videos, progress)

        assert progress.videos_done == progress.videos_total == 2
        assert progress.shards > 3
        assert missing_features(session, videos) == []


def test_no_rows_are_written(opened, videos, folder):
    with opened() as session:
        ensure_features(session, videos)

    assert {path.name for path in folder.iterdir()} == {"videos", "features"}


class TestWhatALimitDecides:
    """A status that depends on an option must not outlive the run that had the option."""

    def test_another_run_with_a_higher_limit_computes_the_features(self, opened, videos):
        with opened(decode=DecodeOptions(workers=1, max_video_seconds=2)) as session:
            not_stored = ensure_features(session, videos)
            (left,) = missing_features(session, videos)
        with opened() as session:
            again = ensure_features(session, videos)

            assert missing_features(session, videos) == []
        assert {name: report.status for name, report in not_stored.items()} == {
            left.video_id: "too_long"
        }
        assert again == {}

    def test_frames_that_are_too_large(self, opened, videos):
        with opened(decode=DecodeOptions(workers=1, max_pixels=100)) as session:
            not_stored = ensure_features(session, videos)
        with opened() as session:
            ensure_features(session, videos)

            assert missing_features(session, videos) == []
        assert {report.status for report in not_stored.values()} == {"too_large"}

    def test_a_new_results_folder_with_the_same_features(self, options, videos, folder):
        """The row of the first run tells of its limit; the second one has another."""
        strict = replace(options, decode=DecodeOptions(workers=1, max_video_seconds=2))
        process_videos([str(folder / "videos")], folder / "one", strict)

        found = process_videos([str(folder / "videos")], folder / "two", options)

        assert (found["counts"]["videos_done"], found["counts"]["videos_failed"]) == (2, 0)


def test_a_stage_that_is_repeated_counts_once(opened, videos):
    """What failed half way was counted too, when stages counted while they worked."""
    attempts = []

    def encode(session, decoded):
        """Fail after the features were computed, as with a full disk; the caller tries again."""
        stages.encode(session, decoded)
        attempts.append(decoded)
        return stages.encode(session, decoded)

    with opened() as session:
        progress = RunProgress()

        def submit(shard):
            done = Future()
            done.set_result(process_shard(session, shard, Stages(encode=encode)))
            return done

        ensure_features(session, videos, progress, submit)

    assert attempts
    assert progress.frames_encoded == 10 + 30


class TestContainersThatTheMachineCannotRead:
    """Planning is tried again like any stage, and a failure takes only its video."""

    def fail_first(self, monkeypatch, video, times):
        right, calls = indexing.index_video, []

        failing = video

        def index_video(process, video):
            if video == failing:
                calls.append(1)
                if len(calls) <= times:
                    raise StartFailed("no process could be started")
            return right(process, video)

        monkeypatch.setattr(indexing, "index_video", index_video)
        return calls

    def test_another_attempt_is_made(self, opened, videos, monkeypatch):
        calls = self.fail_first(monkeypatch, videos[0], times=2)
        with opened() as session:
            ensure_features(session, videos)

            assert missing_features(session, videos) == []
        assert len(calls) == 3

    def test_others_go_on_and_the_same_command_completes(
        self, options, videos, folder, monkeypatch
    ):
        calls = self.fail_first(monkeypatch, videos[0], times=3)

        first = process_videos([str(folder / "videos")], folder / "out", options)
        second = process_videos([str(folder / "videos")], folder / "out", options)

        assert first["failures"] == ["StartFailed('no process could be started')"]
        assert first["counts"]["videos_done"] == 1
        assert second["failures"] == []
        assert second["counts"]["videos_done"] == 1
        assert len(calls) == 4


def test_a_failed_shard_is_raised_when_all_others_are_stored(opened, videos):
    with opened(shards=ShardOptions(max_videos=1)) as session:

        def submit(shard):
            done = Future()
            if shard.chunks[0].video == videos[0]:
                done.set_exception(EngineError("the device went away"))
            else:
                done.set_result(process_shard(session, shard))
            return done

        with pytest.raises(EngineError, match="the device went away"):
            ensure_features(session, videos, submit=submit)

        assert missing_features(session, videos) == videos[:1]
