"""The whole way from files to rows, and what a second run does."""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.config import (
    ClipWindows,
    DecodeOptions,
    EncodeOptions,
    RunOptions,
    Sampling,
    ShardOptions,
)
from pipeline.decode.process_pool import DecodePool
from pipeline.decode.shared_memory import BufferBlock
from pipeline.errors import EngineError, MachineError, OptionError, RecognizerError
from pipeline.progress import RunProgress
from pipeline.recognition.recognizer import (
    EXTERNAL_FEATURES,
    load_recognizer,
    save_recognizer,
)
from pipeline.results.schemas import SCHEMAS
from pipeline.results.tables import load, read_run
from pipeline.run import stages
from pipeline.run.load import cache_folder, open_session
from pipeline.run.planner import Planner
from pipeline.run.process import drive, process_shard, run
from pipeline.run.resume import resume
from pipeline.run.run_record import finish
from pipeline.run.session import Models, Session
from pipeline.sources.discovery import find_videos
from tests.damage import corrupt_footer, corrupt_page
from tests.videos import draw_number, write_images, write_video

WORKER = DecodeOptions(workers=1)
WRITTEN = [name for name in SCHEMAS if name != "shots"]
"""Tables of a run with `frames` that does not look for shots."""
ORDER = {
    "clips": ["video", "clip_index"],
    "segments": ["video", "segment_index"],
    "frames": ["video", "sample_index"],
    "videos": ["video"],
}


class Runs:
    """Runs pipelines on videos, each closed when it is done."""

    def __init__(self, folder, recognizer, cache):
        self.folder, self.recognizer, self.cache = folder, recognizer, cache
        self.failures = []

    @property
    def out(self):
        return self.folder / "out"

    def open(self, **options):
        out = options.pop("out", self.out)
        chosen = {"recognizer": str(self.recognizer), "decode": WORKER, **options}
        self.started = RunProgress()
        return open_session(out, RunOptions(**chosen), self.cache, progress=self.started)

    def __call__(self, *sources, **options):
        """Run once, and give the progress."""
        with self.open(**options) as session:
            return self.on(session, sources)

    def on(self, session, sources):
        fps = session.options.image_fps
        videos = find_videos([str(source) for source in sources], image_fps=fps)
        progress = RunProgress(startup=self.started.startup)
        self.failures = run(session, videos, progress)
        sources = [str(source) for source in sources]
        finish(session, progress, sources, self.failures)
        return progress

    def rows(self, table="clips", out=None):
        return rows_of(out or self.out, table)


def plan(session, videos):
    """Plan the shards of the videos that have no rows."""
    return Planner.of_session(session, RunProgress()).plan(resume(session, videos))


def rows_of(out, table="clips", config_id=None):
    """Give a table with plain file names, sorted."""
    rows = load(out, table, config_id)
    rows["video"] = [os.path.basename(name) for name in rows.video]
    return rows.sort_values(ORDER[table], ignore_index=True)


def assert_same_rows(one, other, *, without=("score", "scores", "config_id"), within=1e-4):
    pd.testing.assert_frame_equal(
        one.drop(columns=list(without), errors="ignore"),
        other.drop(columns=list(without), errors="ignore"),
    )
    if "scores" in one:
        np.testing.assert_allclose(np.stack(one.scores), np.stack(other.scores), atol=within)


def files_of(out):
    """Give every file of a results folder with its time of writing."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/part-*.parquet")}


def write_truncated(path, count=60):
    """Write a video whose header claims more than the file holds."""
    write_video(path, count, codec="mpeg4", first=300)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])


@pytest.fixture
def runs(tmp_path, tiny_recognizer, engine_cache):
    return Runs(tmp_path, tiny_recognizer, engine_cache)


@pytest.fixture
def plain_runs(tmp_path, plain_recognizer, engine_cache):
    return Runs(tmp_path, plain_recognizer, engine_cache)


@pytest.fixture
def videos(tmp_path):
    """A folder with two short videos: 2 seconds, and 1.5 seconds."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", 60)
    write_video(folder / "b.mp4", 45, first=100)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, tiny_recognizer, engine_cache):
    folder = tmp_path_factory.mktemp("mixed")
    videos = folder / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", 60)
    write_video(videos / "b.mp4", 45, first=100)
    shutil.copy(videos / "a.mp4", videos / "again.mp4")
    write_truncated(videos / "cut.avi")
    (videos / "half.mp4").write_bytes((videos / "b.mp4").read_bytes()[:3000])
    (videos / "text.mp4").write_text("this is no video\n" * 50)
    (videos / "nothing.mp4").write_bytes(b"")
    (videos / "notes.txt").write_text("left out")
    (videos / "device.mp4").symlink_to("/dev/null")
    (videos / "gone.mp4").symlink_to("not-there.mp4")
    runs = Runs(folder, tiny_recognizer, engine_cache)
    runs.progress = runs(videos, frames=True, embeddings=True)
    return runs


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return write_video(path, 110, gop=10, b_frames=2, first=7)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for number in range(5):
        write_video(folder / f"v{number}.mp4", 20 + 13 * number, first=100 * number)
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory, many, tiny_recognizer, engine_cache):
    runs = Runs(tmp_path_factory.mktemp("expected"), tiny_recognizer, engine_cache)
    runs(many)
    return {table: runs.rows(table) for table in ("clips", "segments", "videos")}


class TestMixedFolder:
    """One run over files good and bad."""

    def test_every_file_has_a_row_with_its_status(self, mixed):
        found = mixed.rows("videos").set_index("video").status.to_dict()

        assert found == {
            "a.mp4": "ok",
            "again.mp4": "ok",
            "b.mp4": "ok",
            "cut.avi": "partial",
            "device.mp4": "unreadable",
            "gone.mp4": "missing",
            "half.mp4": "undecodable",
            "nothing.mp4": "not_video",
            "text.mp4": "not_video",
        }

    def test_a_bad_video_is_no_failure_of_the_run(self, mixed):
        assert mixed.failures == []

    def test_every_bad_file_says_why(self, mixed):
        errors = mixed.rows("videos").set_index("video").error

        assert errors["device.mp4"].startswith("not a regular file")
        assert errors["gone.mp4"].startswith("No such file")
        assert errors["half.mp4"].startswith("cut off")
        assert errors["text.mp4"] == "a text file"
        assert "damaged" in errors["cut.avi"]
        assert errors["a.mp4"] == ""

    def test_clips_lie_at_the_times_of_the_footage(self, mixed):
        clips = mixed.rows().set_index("video")

        a = clips.loc["a.mp4"]
        assert a.start_seconds.tolist() == [0.0, 1.0]
        assert a.end_seconds.tolist() == [1.0, 2.0]
        assert a.num_frames.tolist() == [8, 8]
        b = clips.loc["b.mp4"]
        assert b.start_seconds.tolist() == [0.0, 1.0]
        assert b.end_seconds.tolist() == [1.0, 1.5]
        assert b.num_frames.tolist() == [8, 4]

    def test_label_and_score_are_the_best_of_the_scores(self, mixed):
        clips = mixed.rows()
        scores = np.stack(clips.scores)
        labels = np.array(["left", "right", "still"])

        assert clips.label.tolist() == labels[scores.argmax(1)].tolist()
        np.testing.assert_array_equal(clips.score, scores.max(1))
        np.testing.assert_allclose(scores.sum(1), 1, atol=1e-5)

    def test_a_copy_has_the_same_rows_under_its_own_name(self, mixed):
        clips = mixed.rows()
        one = clips[clips.video == "a.mp4"].reset_index(drop=True)
        other = clips[clips.video == "again.mp4"].reset_index(drop=True)

        assert_same_rows(one, other, without=["video", "scores", "embedding"], within=0)
        copy_of = mixed.rows("videos").set_index("video").copy_of
        assert os.path.basename(copy_of["again.mp4"]) == "a.mp4"
        assert copy_of.drop("again.mp4").isna().all()

    def test_frames_are_the_samples_in_order(self, mixed):
        frames = mixed.rows("frames")
        b = frames[frames.video == "b.mp4"]

        assert b.sample_index.tolist() == list(range(12))
        expected = [int(k / 8 * 30 + 1e-6) for k in range(12)]
        assert b.frame_index.tolist() == expected
        np.testing.assert_allclose(b.pts_seconds, np.array(expected) / 30, atol=1e-6)

    def test_embeddings_have_the_size_of_the_state(self, mixed):
        assert np.stack(mixed.rows().embedding).shape == (len(mixed.rows()), 8)

    def test_segments_tile_each_video(self, mixed):
        segments = mixed.rows("segments")
        a = segments[segments.video == "a.mp4"]

        assert a.start_seconds.iloc[0] == 0
        assert a.end_seconds.iloc[-1] == 2
        assert a.start_seconds.tolist()[1:] == a.end_seconds.tolist()[:-1]

    def test_the_tally_counts_contents_once(self, mixed):
        progress = mixed.progress

        assert progress.videos_total == 8  # `again` is `a`
        assert progress.videos_done == 8
        assert progress.videos_failed == 5
        assert progress.videos_partial == 1
        assert progress.clips == len(mixed.rows())
        decoded = mixed.rows("videos")
        decoded = decoded[decoded.copy_of.isna()]
        assert progress.frames_decoded == decoded.frames_decoded.sum()
        assert progress.frames_encoded == decoded.frames_sampled.sum()

    def test_facts_of_a_good_video(self, mixed):
        row = mixed.rows("videos").set_index("video").loc["b.mp4"]

        assert (row.width, row.height, row.codec, row.rotation) == (96, 64, "h264", 0)
        assert (row.frames_expected, row.frames_decoded, row.frames_sampled) == (45, 45, 12)
        assert row.duration_seconds == pytest.approx(1.5)
        assert row.frame_rate == pytest.approx(30)
        assert row.clips == 2
        assert row.recognizer == "tiny"

    def test_permanent_verdicts_are_stored_and_transient_ones_are_not(self, mixed):
        ids = mixed.rows("videos").set_index("video").video_id
        with mixed.open(frames=True, embeddings=True) as session:
            stored = {name: session.store.has(video_id) for name, video_id in ids.items()}

        assert stored.pop("device.mp4") is False  # unreadable: may be mended
        assert all(stored.values())

    def test_nothing_of_a_failed_file_is_in_the_other_tables(self, mixed):
        good = {"a.mp4", "again.mp4", "b.mp4", "cut.avi"}

        for table in ("clips", "segments", "frames"):
            assert set(mixed.rows(table).video) == good


class TestSecondRun:
    def test_the_same_command_does_nothing_new(self, runs, videos):
        (videos / "text.mp4").write_text("no video")
        runs(videos)
        before = files_of(runs.out)

        progress = runs(videos)

        assert progress.videos_skipped == progress.videos_total == 3
        assert progress.shards == progress.frames_decoded == progress.clips == 0
        assert files_of(runs.out) == before

    def test_a_new_file_adds_only_its_own_rows(self, runs, videos):
        runs(videos)
        before = files_of(runs.out)
        write_video(videos / "c.mp4", 30, first=200)

        progress = runs(videos)

        assert (progress.videos_skipped, progress.videos_done, progress.frames_encoded) == (2, 1, 8)
        assert before.items() <= files_of(runs.out).items()
        assert rows_of(runs.out).video.value_counts().to_dict() == {
            "a.mp4": 2,
            "b.mp4": 2,
            "c.mp4": 1,
        }

    def test_a_changed_file_replaces_its_rows(self, runs, videos):
        runs(videos, frames=True)
        old = runs.rows("videos").set_index("video").video_id
        write_video(videos / "a.mp4", 90, first=500)

        progress = runs(videos, frames=True)

        assert (progress.videos_skipped, progress.videos_done) == (1, 1)
        new = runs.rows("videos").set_index("video").video_id
        assert new["a.mp4"] != old["a.mp4"]
        assert new["b.mp4"] == old["b.mp4"]
        for table in WRITTEN:
            assert old["a.mp4"] not in set(runs.rows(table).video_id)
        assert len(runs.rows()) == 3 + 2
        assert len(runs.rows("frames")) == 24 + 12

    def test_a_renamed_file_is_not_decoded_again(self, runs, videos):
        runs(videos)
        before = runs.rows()
        (videos / "a.mp4").rename(videos / "z.mp4")

        progress = runs(videos)

        assert (progress.frames_decoded, progress.frames_encoded, progress.frames_reused) == (
            0,
            0,
            16,
        )
        assert runs.rows("videos").video.tolist() == ["b.mp4", "z.mp4"]
        expected = before.replace({"video": {"a.mp4": "z.mp4"}})
        expected = expected.sort_values(ORDER["clips"], ignore_index=True)
        assert_same_rows(runs.rows(), expected)

    def test_a_copy_that_comes_later_gets_rows_without_decoding(self, runs, videos):
        runs(videos)
        shutil.copy(videos / "b.mp4", videos / "c.mp4")

        progress = runs(videos)

        assert (progress.frames_decoded, progress.frames_reused) == (0, 12)
        assert runs.rows().video.value_counts().to_dict() == {"a.mp4": 2, "b.mp4": 2, "c.mp4": 2}

    @pytest.mark.parametrize("changed", [True, False])
    def test_a_copy_that_changes_or_goes_loses_its_rows(self, runs, videos, changed):
        shutil.copy(videos / "b.mp4", videos / "c.mp4")
        runs(videos)
        (videos / "c.mp4").unlink()
        if changed:
            write_video(videos / "c.mp4", 90, first=700)

        runs(videos)

        found = runs.rows().video.value_counts().to_dict()
        assert found == {"a.mp4": 2, "b.mp4": 2, **({"c.mp4": 3} if changed else {})}
        assert len(runs.rows("videos")) == 2 + changed

    def test_files_that_change_places_change_rows(self, runs, videos):
        runs(videos)
        (videos / "a.mp4").rename(videos / "x")
        (videos / "b.mp4").rename(videos / "a.mp4")
        (videos / "x").rename(videos / "b.mp4")

        progress = runs(videos)

        assert (progress.videos_done, progress.frames_decoded) == (2, 0)
        assert runs.rows().end_seconds.tolist() == [1, 1.5, 1, 2]

    def test_files_outside_this_run_keep_their_rows(self, runs, videos):
        runs(videos)

        progress = runs(videos / "b.mp4")

        assert (progress.videos_total, progress.videos_skipped) == (1, 1)
        assert set(runs.rows().video) == {"a.mp4", "b.mp4"}

    def test_so_do_files_of_the_same_content(self, runs, videos, tmp_path):
        other = tmp_path / "other"
        other.mkdir()
        shutil.copy(videos / "a.mp4", other / "c.mp4")
        runs(videos)

        runs(other)

        assert sorted(runs.rows().video.unique()) == ["a.mp4", "b.mp4", "c.mp4"]
        rows = runs.rows("videos").set_index("video")
        assert rows.copy_of.dropna().to_dict() == {"a.mp4": str(other / "c.mp4")}
        assert runs(videos).videos_done == runs(other).videos_done == 0

    def test_other_files_are_not_forgotten_by_a_retry(self, runs, videos):
        runs(videos)

        progress = runs(videos / "b.mp4", retry=("ok",))

        assert (progress.videos_done, progress.frames_encoded > 0) == (1, True)
        assert runs(videos, frames=True).frames_encoded == 0  # all features are there

    @pytest.mark.parametrize("table", WRITTEN)
    def test_a_part_that_was_deleted_is_made_again(self, runs, videos, table):
        runs(videos, frames=True)
        before = {name: runs.rows(name) for name in WRITTEN}
        for part in (runs.out / table).iterdir():
            part.unlink()

        progress = runs(videos, frames=True)

        assert (progress.videos_done, progress.frames_decoded) == (2, 0)
        for name in WRITTEN:
            assert_same_rows(runs.rows(name), before[name])

    @pytest.mark.parametrize("table", WRITTEN)
    def test_videos_with_a_damaged_footer_are_processed_again(self, runs, videos, table):
        runs(videos, frames=True)
        before = {name: runs.rows(name) for name in WRITTEN}
        corrupt_footer(next((runs.out / table).glob("part-*.parquet")))

        progress = runs(videos, frames=True)

        assert (progress.videos_done, progress.frames_decoded) == (2, 0)
        for name in WRITTEN:
            assert_same_rows(runs.rows(name), before[name])

    @pytest.mark.parametrize(
        ("table", "column", "done"), [("videos", "status", [2]), ("clips", "label", [0, 2])]
    )
    def test_videos_with_a_damaged_page_are_processed_again(
        self, runs, videos, table, column, done
    ):
        """Pages of `videos` are read at the start, those of `clips` for the report at the end."""
        runs(videos)
        before = runs.rows()
        corrupt_page(next((runs.out / table).glob("part-*.parquet")), column)

        for videos_done in done:
            assert runs(videos).videos_done == videos_done
            assert runs.failures == []

        assert_same_rows(runs.rows(), before)

    @pytest.mark.parametrize("max_videos", [1, 256])
    def test_damaged_features_are_computed_again_by_the_same_run(self, runs, videos, max_videos):
        """Pages are read when rows are written, long after the run was planned."""
        shards = {"shards": ShardOptions(max_videos=max_videos)}
        runs(videos, **shards)
        before = runs.rows()
        for path in (runs.out / "features").glob("*/part-*.parquet"):
            corrupt_page(path, "feature")

        progress = runs(videos, clips=ClipWindows(0.5), **shards)

        assert runs.failures == []
        assert (progress.videos_done, progress.frames_decoded) == (2, 105)
        assert len(list(runs.out.glob("features/*/_damaged-*"))) == {1: 2, 256: 1}[max_videos]
        runs(videos, **shards)
        assert_same_rows(runs.rows(), before)

    def test_deleted_features_are_made_again_only_when_they_are_needed(self, runs, videos):
        runs(videos)
        shutil.rmtree(runs.out / "features")

        assert runs(videos).frames_decoded == 0
        assert runs(videos, clips=ClipWindows(0.5)).frames_decoded == 105

    def test_a_missing_file_that_comes_back_replaces_its_row(self, runs, videos, tmp_path):
        listed = tmp_path / "list.txt"
        listed.write_text("videos/a.mp4\nvideos/late.mp4\n")
        runs(listed)
        assert runs.rows("videos").status.tolist() == ["ok", "missing"]
        write_video(videos / "late.mp4", 30, first=700)

        progress = runs(listed)

        assert (progress.videos_skipped, progress.videos_done) == (1, 1)
        assert runs.rows("videos").status.tolist() == ["ok", "ok"]

    def test_parts_of_an_unfinished_shard_are_swept(self, runs, videos):
        runs(videos)
        part = next((runs.out / "clips").iterdir())
        stray = part.with_name(part.name.rsplit("-", 1)[0] + "-0123456789abcdef.parquet")
        shutil.copy(part, stray)
        half = part.with_name(f".{part.name}.{2**22 + 1}-88.new")
        half.write_bytes(b"PAR1")

        runs(videos)

        assert not stray.exists()
        assert not half.exists()
        assert len(runs.rows()) == 4

    def test_names_that_two_lists_share_stay_apart(self, runs, videos, tmp_path):
        """A list names its videos relative to itself, so a name alone says little."""
        for number, name in enumerate(("one", "two")):
            folder = tmp_path / name
            folder.mkdir()
            write_video(folder / "same.mp4", 30, first=10 + 300 * number)
            (folder / "list.txt").write_text("same.mp4\n")
        lists = [tmp_path / name / "list.txt" for name in ("one", "two")]
        runs(*lists)
        write_video(tmp_path / "two" / "same.mp4", 60, first=800)

        runs(*lists)

        assert sorted(runs.rows().groupby("video_id").size()) == [1, 2]
        assert len(runs.rows("videos")) == 2


class TestConfigurations:
    def test_another_configuration_is_kept_apart(self, runs, videos):
        runs(videos)
        first = read_run(runs.out)["config_id"]
        progress = runs(videos, clips=ClipWindows(0.5))
        second = read_run(runs.out)["config_id"]

        assert progress.frames_decoded == 0
        assert first != second
        assert len(rows_of(runs.out)) == 7
        assert len(rows_of(runs.out, config_id=first)) == 4
        both = pd.read_parquet(runs.out / "clips")
        assert both.config_id.value_counts().to_dict() == {first: 4, second: 7}
        assert set(read_run(runs.out)["configurations"]) == {first, second}

    def test_the_newest_run_decides_what_is_loaded(self, runs, videos):
        runs(videos)
        runs(videos, clips=ClipWindows(0.5))

        progress = runs(videos)

        assert progress.videos_skipped == 2
        assert len(runs.rows()) == 4

    def test_what_changes_no_row_changes_no_identity(self, runs, videos):
        runs(videos)

        progress = runs(
            videos,
            decode=DecodeOptions(workers=2, frame_timeout_seconds=7),
            encode=EncodeOptions(batch_size=3),
            shards=ShardOptions(max_frames=7, window=1),
        )

        assert progress.videos_skipped == 2

    @pytest.mark.parametrize(
        "changed",
        [
            {"sampling": Sampling(fps=4)},
            {"clips": ClipWindows(1.0, 0.5)},
            {"frames": True},
            {"embeddings": True},
        ],
    )
    def test_what_changes_rows_changes_the_identity(self, runs, changed):
        with runs.open() as one, runs.open(**changed) as other:
            assert one.config.config_id != other.config.config_id

    def test_a_second_recognizer_decodes_nothing(self, runs, videos, tmp_path, tiny_recognizer):
        runs(videos)
        first = runs.rows()
        recognizer = load_recognizer(tiny_recognizer)
        with torch.no_grad():
            recognizer.model.head.bias.add_(torch.tensor([0.0, 5.0, 0.0]))
        other = tmp_path / "other"
        weights = {"backbone.safetensors": tiny_recognizer / "backbone.safetensors"}
        save_recognizer(replace(recognizer, name="other"), other, _load(weights))

        progress = runs(videos, recognizer=str(other))

        assert (progress.frames_decoded, progress.frames_encoded, progress.frames_reused) == (
            0,
            0,
            28,
        )
        assert set(runs.rows().label) == {"right"}
        assert set(first.label) != {"right"}
        assert set(runs.rows().recognizer) == {"other"}

    def test_two_results_folders_share_a_feature_store(self, runs, videos, tmp_path):
        features = str(tmp_path / "store")
        runs(videos, features=features)

        progress = runs(videos, features=features, out=tmp_path / "second")

        assert (progress.frames_encoded, progress.frames_reused) == (0, 28)
        assert not (tmp_path / "second" / "features").exists()
        assert_same_rows(runs.rows(), runs.rows(out=tmp_path / "second"))

    @pytest.mark.parametrize(
        ("sampling", "counts"),
        [
            (Sampling(fps=4), [4, 4, 4, 2]),
            (Sampling(fps=15), [15, 15, 15, 8]),
            (Sampling(every=3), [10, 10, 10, 5]),
        ],
    )
    def test_another_sampling_moves_no_clip(self, runs, videos, sampling, counts):
        """Times follow the sampling of the run, not the one that the recognizer was made with."""
        runs(videos, sampling=sampling)

        clips = runs.rows()
        assert clips.start_seconds.tolist() == [0, 1, 0, 1]
        assert clips.end_seconds.tolist() == [1, 2, 1, 1.5]
        assert clips.num_frames.tolist() == counts

    def test_whole_videos_are_one_clip(self, runs, videos):
        runs(videos, clips=ClipWindows())

        clips = runs.rows()
        assert clips.start_seconds.tolist() == [0, 0]
        assert clips.end_seconds.tolist() == [2, 1.5]
        assert clips.embedding.isna().all()

    def test_overlapping_clips_encode_each_frame_once(self, runs, videos):
        progress = runs(videos, clips=ClipWindows(1.0, 0.25))

        a = runs.rows()[lambda rows: rows.video == "a.mp4"]
        assert a.start_seconds.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert progress.frames_encoded == 28


def _load(paths):
    from safetensors.torch import load_file

    return load_file(next(iter(paths.values())))


class TestFeaturesOnly:
    def test_every_sampled_frame_has_features_and_every_video_a_row(self, plain_runs, videos):
        (videos / "text.mp4").write_text("no video")
        given = {"recognizer": None, "backbone": "random:test_resnet", "sampling": Sampling(fps=8)}

        progress = plain_runs(videos, **given)

        assert (progress.frames_encoded, progress.clips, progress.videos_done) == (28, 0, 3)
        assert plain_runs.rows("videos").status.tolist() == ["ok", "ok", "not_video"]
        assert plain_runs.rows().empty
        assert plain_runs.rows().columns.tolist() == SCHEMAS["clips"].names
        (folder,) = (plain_runs.out / "features").iterdir()
        features = pd.read_parquet(folder)
        assert np.stack(features.feature).shape == (28, 96)
        assert features.groupby("video_id").size().tolist() in ([16, 12], [12, 16])

    def test_a_recognizer_finds_the_features(self, plain_runs, videos):
        given = {"recognizer": None, "backbone": "random:test_resnet", "sampling": Sampling(fps=8)}
        plain_runs(videos, **given)

        progress = plain_runs(videos)

        assert (progress.frames_decoded, progress.frames_encoded, progress.frames_reused) == (
            0,
            0,
            28,
        )
        assert len(plain_runs.rows()) == 4


class TestLongVideos:
    """Chunks are decoded and encoded apart, and give the rows of the whole."""

    @pytest.mark.parametrize(
        ("kind", "max_frames"), [("tiny", 1), ("tiny", 11), ("tiny", 29), ("plain", 11)]
    )
    def test_rows_equal_those_of_an_unsegmented_run(
        self, request, tmp_path, engine_cache, long, kind, max_frames
    ):
        recognizer = request.getfixturevalue(f"{kind}_recognizer")
        runs = Runs(tmp_path, recognizer, engine_cache)
        given = {"frames": True, "embeddings": True}
        runs(long, out=tmp_path / "whole", **given)

        progress = runs(long, shards=ShardOptions(max_frames=max_frames), **given)

        assert progress.shards == -(-30 // max_frames) + 1  # and one that labels the whole
        assert (progress.frames_encoded, progress.frames_reused, progress.videos_done) == (
            30,
            30,
            1,
        )
        for table in ("clips", "segments", "frames"):
            whole = runs.rows(table, tmp_path / "whole")
            without = ("score", "scores", "embedding", "config_id")
            assert_same_rows(runs.rows(table), whole, without=without)
            np.testing.assert_allclose(runs.rows(table).score, whole.score, atol=1e-4)
        one, other = runs.rows("videos"), runs.rows("videos", tmp_path / "whole")
        assert_same_rows(one, other, without=["decoder", "attempts"])

    def test_bytes_bound_a_chunk_too(self, runs, long):
        frame_bytes = 72 * 96 * 3

        runs(long, shards=ShardOptions(max_bytes=10 * frame_bytes))

        assert runs(long).videos_skipped == 1
        chunks = load_chunks(runs, long)
        assert max(stop - start for start, stop in chunks) <= 10
        assert sum(stop - start for start, stop in chunks) == 30

    def test_long_and_short_videos_go_together(self, runs, long, videos):
        runs(videos, long, shards=ShardOptions(max_frames=16))

        assert runs.failures == []
        assert runs.rows().video.value_counts().to_dict() == {"a.mp4": 2, "b.mp4": 2, "long.mp4": 4}

    def test_a_damaged_long_video_is_one_partial_row(self, runs, tmp_path, long):
        path = tmp_path / "damaged.mp4"
        data = bytearray(long.read_bytes())
        middle = len(data) * 45 // 100
        data[middle : middle + 600] = bytes(600)
        path.write_bytes(data)
        runs(path, out=tmp_path / "whole")

        runs(path, shards=ShardOptions(max_frames=10))

        whole = runs.rows("videos", tmp_path / "whole").iloc[0]
        row = runs.rows("videos").iloc[0]
        assert (row.status, whole.status) == ("partial", "partial")
        assert row.frames_expected == 110
        assert row.frames_decoded + row.frames_missing == 110
        assert row.frames_sampled == len(pd.read_parquet(runs.out / "features"))

    def test_a_chunk_that_fails_is_the_only_one_done_again(self, runs, long):
        with runs.open(shards=ShardOptions(max_frames=10)) as session:
            session.engine = FailsOnce(session.engine, number=2)
            runs.on(session, [long])
        assert [type(error) for error in runs.failures] == [EngineError]
        assert runs.rows("videos").empty
        missing = 30 - sum(stop - start for start, stop in load_chunks(runs, long))
        assert 0 < missing <= 10

        progress = runs(long, shards=ShardOptions(max_frames=10))

        assert (progress.frames_encoded, progress.videos_done) == (missing, 1)
        assert runs.rows().end_seconds.tolist() == [1, 2, 3, pytest.approx(110 / 30)]

    def test_a_rerun_may_cut_other_chunks(self, runs, tmp_path, long):
        runs(long, out=tmp_path / "whole")
        with runs.open(shards=ShardOptions(max_frames=10)) as session:
            session.engine = FailsOnce(session.engine, number=2)
            runs.on(session, [long])

        runs(long, shards=ShardOptions(max_frames=15))

        assert runs.failures == []
        assert_same_rows(runs.rows(), runs.rows(out=tmp_path / "whole"))
        assert runs(long, clips=ClipWindows(0.5)).frames_encoded == 0


def load_chunks(runs, path):
    """Tell which chunks of a video are stored."""
    (video,) = find_videos([str(path)])
    with runs.open() as session:
        return session.store.chunks(video.video_id)


class FailsOnce:
    """An engine that is out of order for one call."""

    def __init__(self, engine, number):
        self._engine, self._number = engine, number
        self._calls = 0
        self.backbone, self.batch_size = engine.backbone, 1000
        self.precision, self.device, self.name = engine.precision, engine.device, engine.name

    def preprocess(self, frames):
        return self._engine.preprocess(frames)

    def start(self, pictures):
        self._calls += 1
        if self._calls == self._number:
            raise EngineError("the device went away")
        return self._engine.start(pictures)


class TestFailures:
    def test_a_shard_that_fails_does_not_stop_the_others(self, runs, videos):
        write_video(videos / "c.mp4", 30, first=200)
        with runs.open(shards=ShardOptions(max_videos=1)) as session:
            session.engine = FailsOnce(session.engine, number=2)
            progress = runs.on(session, [videos])

        assert [str(error) for error in runs.failures] == ["the device went away"]
        assert progress.videos_done == 2
        assert len(runs.rows("videos")) == 2
        assert read_run(runs.out)["failures"] == ["EngineError('the device went away')"]

    def test_a_rerun_finishes_what_failed(self, runs, videos):
        write_video(videos / "c.mp4", 30, first=200)
        with runs.open(shards=ShardOptions(max_videos=1)) as session:
            session.engine = FailsOnce(session.engine, number=2)
            runs.on(session, [videos])

        progress = runs(videos)

        assert runs.failures == []
        assert (progress.videos_skipped, progress.videos_done) == (2, 1)
        assert runs.rows("videos").video.tolist() == ["a.mp4", "b.mp4", "c.mp4"]

    def test_memory_of_a_failed_shard_is_used_again(self, runs, videos):
        with runs.open(shards=ShardOptions(max_videos=1, window=1)) as session:
            session.engine = FailsOnce(session.engine, number=1)
            shards = plan(session, find_videos([str(videos)]))
            failing, good = list(shards)
            with pytest.raises(EngineError):
                process_shard(session, failing)
            lent = session.decoder.blocks.acquire(1)
            assert lent.num_bytes > 16 * 64 * 64 * 3  # that of the failed shard
            session.decoder.blocks.release(lent)

            assert process_shard(session, good).counts["clips"] == 2
            assert session.decoder.blocks.acquire(1) is lent

    def test_a_write_that_fails_leaves_the_shard_undone(self, runs, videos):
        runs.out.mkdir()
        (runs.out / "videos").write_text("a file where a folder should be")
        progress = RunProgress()
        with runs.open() as session:
            failures = run(session, find_videos([str(videos)]), progress)

        (failure,) = failures
        assert isinstance(failure, MachineError)
        assert "cannot be written: File exists" in str(failure)
        assert progress.videos_done == 0
        (runs.out / "videos").unlink()
        assert runs(videos).videos_done == 2
        assert len(runs.rows()) == 4


def shared_memory():
    """The blocks that this process holds."""
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [name for name in held if "memfd" in name]


def blocks():
    """Count the blocks of pictures that somebody still holds."""
    gc.collect()
    return sum(type(thing) is BufferBlock for thing in gc.get_objects())


def test_decoding_that_failed_leaves_no_memory(runs, videos, monkeypatch):
    def fail(*_, **__):
        raise MachineError("the disk is gone")

    with runs.open() as session:
        shard = next(plan(session, find_videos([str(videos)])))
        before, held = shared_memory(), blocks()
        monkeypatch.setattr("pipeline.run.shard_decoder.decode_chunk", fail)

        with pytest.raises(MachineError):
            stages.decode(session, shard)

        assert shared_memory() == before
        assert blocks() == held


class TestRetry:
    def test_a_time_out_is_a_row_and_is_retried_only_on_demand(self, runs, videos):
        slow = write_video(videos / "slow.mp4", 500, size=(640, 480), first=9)
        runs(slow, decode=DecodeOptions(workers=1, frame_timeout_seconds=0.02))
        row = runs.rows("videos").iloc[0]
        assert row.status == "decode_timeout"
        assert "no frame for 0.02 s" in row.error
        assert runs.rows().empty

        assert runs(videos).videos_skipped == 1
        assert runs.rows("videos").status.tolist() == ["ok", "ok", "decode_timeout"]

        progress = runs(videos, retry=("decode_timeout",))
        assert (progress.videos_skipped, progress.videos_done) == (2, 1)
        assert runs.rows("videos").status.tolist() == ["ok", "ok", "ok"]
        assert len(runs.rows()[lambda rows: rows.video == "slow.mp4"]) == 17

    def test_only_the_chosen_statuses_are_processed_again(self, runs, videos):
        write_truncated(videos / "cut.avi")
        (videos / "text.mp4").write_text("no video")
        runs(videos)
        before = runs.rows()
        decoded = runs.rows("videos").set_index("video").frames_decoded["cut.avi"]

        progress = runs(videos, retry=("partial",))

        assert (progress.videos_skipped, progress.videos_done) == (3, 1)
        assert progress.frames_decoded == decoded > 0  # and not from the store
        assert_same_rows(runs.rows(), before)

        progress = runs(videos, retry=("not_video", "partial"))
        assert (progress.videos_skipped, progress.videos_done) == (2, 2)

    def test_a_retried_video_is_taken_from_its_new_features(self, runs, videos):
        """Of a video that was decoded twice, later runs see the second result."""
        write_truncated(videos / "cut.avi")
        runs(videos)
        with runs.open(retry=("partial",)) as session:
            session.engine = Flips(session.engine)
            runs.on(session, [videos])
        retried = runs.rows()

        progress = runs(videos, embeddings=True)

        assert progress.frames_decoded == 0
        assert_same_rows(
            runs.rows(), retried, without=["embedding", "scores", "score", "config_id"]
        )


class Flips:
    """An engine that gives other features than the one it stands for."""

    def __init__(self, engine):
        self._engine = engine
        self.backbone, self.batch_size = engine.backbone, engine.batch_size
        self.precision, self.device, self.name = engine.precision, engine.device, engine.name

    def preprocess(self, frames):
        return self._engine.preprocess(frames)

    def start(self, pictures):
        features = self._engine.start(pictures)
        return lambda: -5 * features()


class TestSameRows:
    """Order, batches, shards and workers change speed, and no row."""

    @pytest.mark.parametrize(
        "given",
        [
            {"encode": EncodeOptions(batch_size=1)},
            {"encode": EncodeOptions(batch_size=7)},
            {"shards": ShardOptions(max_videos=1, window=4)},
            {"shards": ShardOptions(max_frames=9)},
            {"shards": ShardOptions(max_bytes=1, window=1)},
            {"decode": DecodeOptions(workers=3)},
            {"decode": DecodeOptions(workers=1, reader="pyav")},
        ],
        ids=str,
    )
    def test_options_of_speed(self, runs, many, expected, given):
        runs(many, **given)

        assert runs.failures == []
        for table, rows in expected.items():
            ignored = ["score", "scores", "decoder", "attempts"]
            assert_same_rows(runs.rows(table), rows, without=ignored)

    def test_order_of_the_sources(self, runs, many, expected):
        names = np.random.default_rng(3).permutation(sorted(many.iterdir()))

        runs(*names)

        for table, rows in expected.items():
            assert_same_rows(runs.rows(table), rows)


class TestPlan:
    @pytest.mark.parametrize(
        "limits",
        [
            ShardOptions(),
            ShardOptions(max_videos=2),
            ShardOptions(max_frames=20),
            ShardOptions(max_frames=6),
            ShardOptions(max_bytes=30 * 72 * 96 * 3),
        ],
        ids=str,
    )
    def test_shards_keep_their_limits_and_hold_every_sample_once(self, runs, videos, limits):
        for number in range(4):
            write_video(videos / f"more{number}.mp4", 15 + 20 * number, first=50 * number)
        (videos / "text.mp4").write_text("no video")
        found = find_videos([str(videos)])
        with runs.open(shards=limits) as session:
            shards = list(plan(session, found))

        samples = {}
        for shard in shards:
            frames = sum(chunk.stop - chunk.start for chunk in shard.chunks)
            assert frames <= limits.max_frames
            assert frames * 72 * 96 * 3 <= limits.max_bytes
            assert len(shard.chunks) <= limits.max_videos
            assert len(shard.chunks) == 1 or all(s.whole for s in shard.chunks)
            for chunk in shard.chunks:
                assert chunk.context == (1 if chunk.start else 0)
                samples.setdefault(chunk.video.path, []).append((chunk.start, chunk.stop))
        assert list(samples) == [video.path for video in found]
        for pieces in samples.values():
            assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]

    def test_shards_follow_the_order_of_the_videos(self, runs, tmp_path):
        short = write_video(tmp_path / "z.mp4", 15)
        long = write_video(tmp_path / "a.mp4", 110)
        with runs.open(shards=ShardOptions(max_frames=20)) as session:
            shards = list(plan(session, find_videos([str(short), str(long)])))

        found = [(os.path.basename(s.video.path), s.start) for h in shards for s in h.chunks]
        stops = [s.stop for shard in shards for s in shard.chunks]
        assert found == [("z.mp4", 0), ("a.mp4", 0), ("a.mp4", stops[1])]
        assert (stops[0], stops[2]) == (4, 30)

    def test_videos_with_features_come_first(self, runs, videos):
        runs(videos / "b.mp4")
        with runs.open(clips=ClipWindows(0.5)) as session:
            first, second = plan(session, find_videos([str(videos)]))

        assert [os.path.basename(video.path) for video in first.cached] == ["b.mp4"]
        assert [os.path.basename(s.video.path) for s in second.chunks] == ["a.mp4"]

    @pytest.mark.parametrize(
        ("limits", "counts"),
        [
            (ShardOptions(), [5]),
            (ShardOptions(max_videos=1), [2, 2, 1]),
            (ShardOptions(max_frames=16), [3, 1, 1]),  # 6 + 9 + 13, then 16, then 20, of 32
            (ShardOptions(max_frames=1), [1, 1, 1, 1, 1]),
        ],
        ids=str,
    )
    def test_stored_videos_are_bounded_by_the_features_that_are_in_memory_at_once(
        self, runs, many, limits, counts
    ):
        runs(many)
        with runs.open(clips=ClipWindows(0.5), shards=limits) as session:
            shards = list(plan(session, find_videos([str(many)])))

        assert [len(shard.cached) for shard in shards] == counts
        assert all(not shard.chunks for shard in shards)

    def test_results_among_the_videos_are_no_videos(self, runs, videos):
        runs(videos, out=videos / "out")

        progress = runs(videos, out=videos / "out")

        assert (progress.videos_total, progress.videos_skipped) == (2, 2)

    def test_undecodable_names_go_the_whole_way(self, runs, tmp_path):
        drawn = write_video(tmp_path / "drawn.mp4", 30)
        folder = tmp_path / "videos"
        folder.mkdir()
        os.rename(drawn, os.path.join(os.fsencode(folder), b"caf\xe9.mp4"))

        runs(folder)

        assert runs.rows("videos").video.tolist() == ["caf\\xe9.mp4"]
        assert runs.rows("videos").frames_decoded.tolist() == [30]
        assert runs(folder).videos_skipped == 1

    def test_a_frame_of_a_time_lapse_video_is_encoded_once(self, runs, tmp_path):
        write_video(tmp_path / "slow.mp4", 12, fps=Fraction(1, 10))

        progress = runs(tmp_path / "slow.mp4", clips=ClipWindows(), frames=True)

        assert (progress.frames_decoded, progress.frames_encoded) == (12, 12)
        (row,) = runs.rows("videos").itertuples()
        assert (row.status, row.duration_seconds, row.frames_sampled) == ("ok", 120, 12)
        assert row.one_sample_per_frame
        assert row.note == "each frame is one sample: it is shown for 10 s"
        frames = runs.rows("frames")
        assert frames.pts_seconds.tolist() == [10 * n for n in range(12)]
        clips, segments = runs.rows("clips"), runs.rows("segments")
        assert (clips.start_seconds.min(), clips.end_seconds.max()) == (0, 120)
        assert (segments.start_seconds.min(), segments.end_seconds.max()) == (0, 120)
        assert segments.start_seconds.tolist()[1:] == segments.end_seconds.tolist()[:-1]

    def test_clips_of_a_time_lapse_video_cover_it(self, runs, tmp_path):
        write_video(tmp_path / "slow.mp4", 4, fps=Fraction(1, 10))

        runs(tmp_path / "slow.mp4", clips=ClipWindows(4.0))

        clips = runs.rows("clips")
        assert clips.start_seconds.tolist() == [4 * n for n in range(10)]
        assert clips.end_seconds.tolist() == [4 * n for n in range(1, 11)]

    def test_a_still_picture_has_no_clips(self, runs, tmp_path):
        Image.fromarray(draw_number(3)).save(tmp_path / "cover.png")

        runs(tmp_path / "cover.png")

        (row,) = runs.rows("videos").itertuples()
        assert (row.status, row.frames_sampled, row.clips) == ("ok", 1, 0)
        assert row.note == "a still picture, without a duration: no clips"
        assert len(runs.rows("clips")) == len(runs.rows("segments")) == 0
        assert len(load(runs.out, "features")) == 1
        assert runs(tmp_path / "cover.png").videos_skipped == 1

    def test_two_cameras_in_one_folder(self, runs, tmp_path):
        folder = tmp_path / "cameras"
        for camera, numbers in (("camA", range(16)), ("camB", range(100, 116))):
            write_images(tmp_path / camera, numbers)
            for number, path in enumerate(sorted((tmp_path / camera).iterdir())):
                folder.mkdir(exist_ok=True)
                path.rename(folder / f"{camera}_{number:04}.png")

        runs(folder, image_fps=8)

        rows = runs.rows("videos")
        assert rows.video.tolist() == ["camA_*.png", "camB_*.png"]
        assert rows.frames_decoded.tolist() == [16, 16]
        assert rows.duration_seconds.tolist() == [2, 2]
        assert runs(folder, image_fps=8).videos_skipped == 2
        assert runs(folder / "camB_*.png", image_fps=8).videos_skipped == 1

    def test_the_row_of_a_folder_that_is_several_sequences_now_is_deleted(self, runs, tmp_path):
        folder = write_images(tmp_path / "cameras", range(4))
        runs(folder, image_fps=8)
        for number in range(4):
            shutil.copy(folder / f"img_{number:05}.png", folder / f"depth_{number:05}.png")

        runs(folder, image_fps=8)

        assert runs.rows("videos").video.tolist() == ["depth_*.png", "img_*.png"]

    def test_image_sequences_are_videos(self, runs, tmp_path):
        write_images(tmp_path / "seq", range(5, 25))

        progress = runs(tmp_path / "seq", image_fps=10)

        assert progress.frames_encoded == 16
        row = runs.rows("videos").iloc[0]
        assert (row.status, row.codec, row.duration_seconds) == ("ok", "png", 2)
        assert runs.rows().end_seconds.tolist() == [1, 2]


class TestDrive:
    def test_no_more_shards_fly_than_the_window_holds(self, runs, videos):
        for number in range(4):
            write_video(videos / f"more{number}.mp4", 30, first=50 * number)
        lock, flying, seen = threading.Lock(), set(), []

        def take(session, shard):
            with lock:
                flying.add(id(shard))
                seen.append(len(flying))
            try:
                return process_shard(session, shard)
            finally:
                with lock:
                    flying.discard(id(shard))

        limits = ShardOptions(max_videos=1, window=2)
        with runs.open(shards=limits) as session, ThreadPoolExecutor(8) as threads:
            shards = plan(session, find_videos([str(videos)]))
            planner = Planner.of_session(session, RunProgress())
            failures = drive(planner, shards, lambda shard: threads.submit(take, session, shard))

        assert failures == []
        assert len(seen) == 6
        assert max(seen) == 2

    def test_nothing_to_do_ends_at_once(self, runs):
        with runs.open() as session:
            planner = Planner.of_session(session, RunProgress())
            assert drive(planner, iter(()), lambda shard: pytest.fail("no shard")) == []


class TestOpening:
    def test_a_recognizer_that_brings_its_backbone_takes_no_other(self, engine_cache, tmp_path):
        options = RunOptions(backbone="random:test_resnet")

        with pytest.raises(OptionError, match="camera-motion contains its backbone"):
            open_session(tmp_path, options, engine_cache)

    def test_the_backbone_must_be_the_one_that_the_recognizer_was_made_with(self, plain_runs):
        with pytest.raises(RecognizerError, match="backbone of plain: made with weights"):
            plain_runs.open(backbone="random:test_convnext")

    def test_recognizers_of_features_made_elsewhere_cannot_read_videos(self, plain_runs, tmp_path):
        recognizer = load_recognizer(plain_runs.recognizer)
        spec = replace(recognizer.backbone, name=EXTERNAL_FEATURES)
        save_recognizer(replace(recognizer, backbone=spec), tmp_path / "elsewhere")

        with pytest.raises(RecognizerError, match="trained on features made elsewhere"):
            plain_runs.open(recognizer=str(tmp_path / "elsewhere"))

    def test_the_cache_of_the_user_follows_the_environment(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "clipline"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert cache_folder() == tmp_path / ".cache" / "clipline"

    def test_an_unknown_recognizer_fails(self, runs):
        with pytest.raises(RecognizerError, match="no recognizer nowhere"):
            runs.open(recognizer="nowhere")

    def test_an_unknown_backbone_fails(self, runs):
        given = {"recognizer": None, "sampling": Sampling(fps=8)}
        with pytest.raises(OptionError, match="random:nonsense could not be loaded"):
            runs.open(backbone="random:nonsense", **given)

    def test_a_closed_pipeline_leaves_no_process(self, runs, videos):
        with runs.open() as session:
            runs.on(session, [videos])
            (pid,) = session.pool.pids()

        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


class TestSummary:
    def test_it_is_json_and_says_how_rows_were_made(self, runs, videos, tiny_recognizer):
        runs(videos)
        said = json.loads((runs.out / "run.json").read_text())

        assert said["config_id"] == runs.rows().config_id.iloc[0]
        assert said["sources"] == [str(videos)]
        assert said["counts"]["videos_done"] == 2
        assert said["counts"]["clips"] == 4
        assert said["failures"] == []
        assert RunOptions.from_json(said["options"]).recognizer == str(tiny_recognizer)
        configuration = said["configuration"]
        recognizer = load_recognizer(tiny_recognizer)
        assert configuration["recognizer_id"] == recognizer.identity
        assert configuration["backbone_weights"] == recognizer.backbone.weights_hash
        assert configuration["labels"] == ["left", "right", "still"]
        assert configuration["sampling"] == {"fps": 8, "every": None}
        assert configuration["clips"] == {"seconds": 1, "stride_seconds": None}
        assert configuration["feature_size"] == 97
        assert said["versions"]["torch"] == torch.__version__.split("+")[0]
        timings = said["timings_seconds"]
        assert set(timings["stages"]) == {"decode", "encode", "recognize", "write"}
        assert set(timings["startup"]) == {"networks", "engine", "store", "decode processes"}
        assert timings["run"] >= timings["engine_busy"] + timings["engine_idle"] > 0


def test_a_pipeline_without_recognizer_needs_a_sampling(tiny_recognizer):
    with pytest.raises(OptionError, match="--sample-fps"):
        RunOptions(recognizer=None, backbone="random:test_resnet")


def test_pipelines_are_made_of_parts(runs, tmp_path, videos):
    """Whoever has an engine and a recognizer needs no folder of either."""
    with runs.open() as opened:
        models, pool = Models(opened.engine, opened.recognizer), DecodePool(WORKER)
        config, progress = opened.config, RunProgress()
        with Session(tmp_path / "parts", opened.options, config, models, pool) as made:
            assert run(made, find_videos([str(videos)]), progress) == []
            assert progress.clips == 4
