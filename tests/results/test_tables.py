from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SourceError
from pipeline.recognition.recognize import Clip, LabelledRun, Recognition
from pipeline.records import DecodeReport, Video
from pipeline.results import tables
from pipeline.results.rows import RowOptions, VideoRows
from pipeline.results.schemas import SCHEMAS
from pipeline.results.tables import (
    FinishedVideo,
    drop_rows,
    finished_videos,
    load,
    part_paths,
    read_run,
    remove_incomplete,
    write_rows,
    write_run,
)
from pipeline.storage import write_table

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("left", "right", "still")
OPTIONS = RowOptions(LABELS, "toy", "0123456789abcdef")
FULL = RowOptions(LABELS, "toy", "0123456789abcdef", frames=True, embeddings=True)


def video(name, video_id=None, copies=()):
    return Video(name, f"/videos/{name}", "file", video_id or f"id-{name}", 1000, copies=copies)


def recognition(video_id, clips=2):
    """Clips of a second with 4 frames each; clip n is surest of label n."""
    found = Recognition(video_id)
    for number in range(clips):
        probabilities = np.full(3, 0.25, np.float32)
        probabilities[number % 3] = 0.5
        embedding = np.full(2, number, np.float32)
        found.clips.append(Clip(0, number, number + 1.0, 4, probabilities, embedding))
        found.segments.append(LabelledRun(0, number, number + 1.0, number % 3, 0.5))
    count = 4 * clips
    found.sample_index.append(np.arange(count))
    found.frame_index.append(np.arange(count) * 2)
    found.pts_seconds.append(np.arange(count) / 4)
    found.shots.append(np.zeros(count, np.int64))
    found.labels.append(np.array([-1] + [0] * (count - 1)))
    found.scores.append(np.full(count, 0.5, np.float32))
    return found


def good(name, clips=2, **given):
    said = video(name, **given)
    report = DecodeReport("ok", decoder="pyav", width=96, duration_seconds=clips, frames_decoded=30)
    return VideoRows(said, report, recognition(said.video_id, clips))


def bad(name, status="not_video"):
    report = DecodeReport(status, "no video container", attempts=("decord: no", "opencv: no"))
    return VideoRows(video(name), report, None)


def finish(out, options=OPTIONS):
    """Note the newest run, as `load` wants it."""
    write_run(out, {"config_id": options.config_id, "configuration": {"labels": list(LABELS)}})


class TestSchemas:
    def test_columns_are_the_contract(self):
        who, made_by = ["video", "video_id"], ["recognizer", "config_id"]
        what = ["label", "score"]
        when = ["start_seconds", "end_seconds"]
        assert SCHEMAS["clips"].names == [
            *who,
            "clip_index",
            "shot_index",
            *when,
            "num_frames",
            *what,
            "scores",
            "novelty",
            "embedding",
            *made_by,
        ]
        assert SCHEMAS["segments"].names == [
            *who,
            "segment_index",
            "shot_index",
            *when,
            *what,
            *made_by,
        ]
        assert SCHEMAS["frames"].names == [
            *who,
            "sample_index",
            "frame_index",
            "pts_seconds",
            "shot_index",
            *what,
            "novelty",
            *made_by,
        ]

    def test_every_fact_of_a_report_has_a_column(self):
        assert set(DecodeReport.__dataclass_fields__) <= set(SCHEMAS["videos"].names)

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_parts_are_written_with_the_schema(self, tmp_path, table):
        write_rows(tmp_path, [good("a.mp4"), bad("b.mp4")], FULL)

        (part,) = (tmp_path / table).iterdir()
        assert pq.read_schema(part).equals(SCHEMAS[table])

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_empty_parts_have_the_same_schema(self, tmp_path, table):
        """Else a folder of one bad video could not be read together with others."""
        write_rows(tmp_path, [bad("b.mp4")], FULL)

        (part,) = (tmp_path / table).iterdir()
        assert pq.read_schema(part).equals(SCHEMAS[table])


class TestWriteRows:
    def test_it_tells_how_many_clips(self, tmp_path):
        copies = (("c.mp4", "/videos/c.mp4"),)

        assert write_rows(tmp_path, [good("a.mp4", 3), bad("b.mp4")], OPTIONS) == 3
        assert write_rows(tmp_path, [good("a.mp4", 3, copies=copies)], OPTIONS) == 6

    def test_clips_hold_what_was_recognized(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], FULL)

        clips = pd.read_parquet(tmp_path / "clips")
        assert clips.video.tolist() == ["a.mp4"] * 2
        assert clips.video_id.tolist() == ["id-a.mp4"] * 2
        assert clips.clip_index.tolist() == [0, 1]
        assert clips.start_seconds.tolist() == [0, 1]
        assert clips.end_seconds.tolist() == [1, 2]
        assert clips.num_frames.tolist() == [4, 4]
        assert clips.label.tolist() == ["left", "right"]
        assert clips.score.tolist() == [0.5, 0.5]
        assert clips.scores[1].tolist() == [0.25, 0.5, 0.25]
        assert clips.embedding[1].tolist() == [1, 1]
        assert set(clips.recognizer) == {"toy"}
        assert set(clips.config_id) == {FULL.config_id}

    def test_embeddings_are_null_unless_asked_for(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert pd.read_parquet(tmp_path / "clips").embedding.isna().all()

    def test_novelty_is_null_where_it_is_not_known(self, tmp_path):
        row = good("a.mp4")
        row.recognition.novelty.append(np.array([np.nan] + [1.5] * 7, np.float32))
        row.recognition.clips[1] = replace(row.recognition.clips[1], novelty=2.5)
        write_rows(tmp_path, [row, good("b.mp4")], FULL)

        clips, frames = (pd.read_parquet(tmp_path / table) for table in ("clips", "frames"))
        assert clips.novelty.isna().tolist() == [True, False, True, True]
        assert clips.novelty[1] == 2.5
        assert frames.novelty.isna().tolist() == [True] + [False] * 7 + [True] * 8
        assert set(frames.novelty.dropna()) == {1.5}

    def test_segments_and_frames_hold_what_was_recognized(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], FULL)

        segments = pd.read_parquet(tmp_path / "segments")
        assert segments.segment_index.tolist() == [0, 1]
        assert segments.label.tolist() == ["left", "right"]
        frames = pd.read_parquet(tmp_path / "frames")
        assert frames.sample_index.tolist() == list(range(8))
        assert frames.frame_index.tolist() == list(range(0, 16, 2))
        assert frames.pts_seconds.tolist() == [n / 4 for n in range(8)]
        assert frames.label[0] is None or pd.isna(frames.label[0])  # in no clip
        assert frames.label[1:].tolist() == ["left"] * 7

    def test_frames_are_written_only_when_asked_for(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "segments", "videos"]

    def test_a_bad_video_is_a_row_of_videos_alone(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4"), bad("b.mp4")], FULL)

        videos = pd.read_parquet(tmp_path / "videos").set_index("video")
        assert videos.status.to_dict() == {"a.mp4": "ok", "b.mp4": "not_video"}
        assert videos.attempts["b.mp4"] == "decord: no; opencv: no"
        assert videos.error["b.mp4"] == "no video container"
        assert videos.clips.to_dict() == {"a.mp4": 2, "b.mp4": 0}
        assert videos.width["a.mp4"] == 96
        assert pd.isna(videos.width["b.mp4"])
        assert videos.path["b.mp4"] == "/videos/b.mp4"
        for table in ("clips", "segments", "frames"):
            assert set(pd.read_parquet(tmp_path / table).video) == {"a.mp4"}

    def test_copies_have_rows_in_every_table(self, tmp_path):
        copies = (("c.mp4", "/elsewhere/c.mp4"),)

        write_rows(tmp_path, [good("a.mp4", copies=copies)], FULL)

        videos = pd.read_parquet(tmp_path / "videos").set_index("video")
        assert videos.copy_of.dropna().to_dict() == {"c.mp4": "a.mp4"}
        assert videos.path["c.mp4"] == "/elsewhere/c.mp4"
        for table in ("clips", "segments", "frames"):
            rows = pd.read_parquet(tmp_path / table)
            one = rows[rows.video == "a.mp4"].drop(columns="video").reset_index(drop=True)
            other = rows[rows.video == "c.mp4"].drop(columns="video").reset_index(drop=True)
            pd.testing.assert_frame_equal(one, other)
            assert len(one) > 0

    def test_videos_are_written_last(self, tmp_path, monkeypatch):
        """With its part of `videos` a shard is done, so everything else must be there before."""
        written = []

        def note(table, path):
            written.append(path.parent.name)
            write_table(table, path)

        monkeypatch.setattr(tables, "write_table", note)
        write_rows(tmp_path, [good("a.mp4")], FULL)

        assert sorted(written) == sorted(SCHEMAS)
        assert written[-1] == "videos"

    def test_a_write_that_breaks_off_is_not_done(self, tmp_path, monkeypatch):
        def fail_late(table, path):
            if path.parent.name == "videos":
                raise OSError(28, "No space left on device")
            write_table(table, path)

        monkeypatch.setattr(tables, "write_table", fail_late)
        with pytest.raises(OSError, match="No space left"):
            write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert finished_videos(tmp_path, OPTIONS.config_id) == []
        assert remove_incomplete(tmp_path, OPTIONS) == 2
        assert not list(tmp_path.glob("*/*.parquet"))

    def test_the_same_shard_replaces_its_parts(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4", 1)], OPTIONS)
        write_rows(tmp_path, [good("a.mp4", 3)], OPTIONS)

        assert len(pd.read_parquet(tmp_path / "clips")) == 3

    def test_undecodable_names_can_be_stored(self, tmp_path):
        said = Video("caf\\xe9.mp4", "/videos/caf\udce9.mp4", "file", "1", 2)

        write_rows(tmp_path, [VideoRows(said, DecodeReport("ok"), None)], OPTIONS)

        assert pd.read_parquet(tmp_path / "videos").path.tolist() == ["/videos/caf\\xe9.mp4"]


class TestReading:
    def test_pandas_alone_reads_a_table(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)
        write_rows(tmp_path, [bad("b.mp4")], OPTIONS)
        code = (
            "import pandas as pd, sys\n"
            "rows = pd.read_parquet(sys.argv[1])\n"
            "assert not [name for name in sys.modules if name.startswith('pipeline')]\n"
            "print(rows.label.tolist(), [list(s) for s in rows.scores][0])"
        )

        said = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "clips"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

        assert "['left', 'right']" in said

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_results_without_any_row_can_be_read(self, tmp_path, table):
        write_rows(tmp_path, [bad("b.mp4")], OPTIONS)
        finish(tmp_path)

        rows = load(tmp_path, table)

        assert rows.columns.tolist() == SCHEMAS[table].names
        assert len(rows) == (table == "videos")

    def test_a_run_over_nothing_can_be_read(self, tmp_path):
        finish(tmp_path)

        assert load(str(tmp_path)).empty

    def test_all_parts_of_a_configuration_are_loaded(self, tmp_path):
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            write_rows(tmp_path, [good(name)], OPTIONS)
        finish(tmp_path)

        assert load(tmp_path).video.value_counts().to_dict() == {
            "a.mp4": 2,
            "b.mp4": 2,
            "c.mp4": 2,
        }

    def test_configurations_are_kept_apart(self, tmp_path):
        other = RowOptions(LABELS, "other", "fedcba9876543210")
        write_rows(tmp_path, [good("a.mp4", 1)], OPTIONS)
        write_rows(tmp_path, [good("a.mp4", 3)], other)
        finish(tmp_path, other)

        assert len(load(tmp_path)) == 3
        assert len(load(tmp_path, config_id=OPTIONS.config_id)) == 1
        assert len(load(tmp_path, "videos")) == 1
        assert part_paths(tmp_path, "clips", "0123") == []

    def test_an_unknown_table_fails(self, tmp_path):
        said = "no table 'rows'; there are clips, segments, frames, videos"
        with pytest.raises(SourceError, match=said):
            load(tmp_path, "rows")

    def test_a_folder_without_results_fails(self, tmp_path):
        with pytest.raises(SourceError, match=r"holds no results: no run\.json"):
            load(tmp_path)


class TestSweep:
    def test_finished_shards_stay(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], FULL)

        assert remove_incomplete(tmp_path, FULL) == 0
        assert len(list(tmp_path.glob("*/*.parquet"))) == 4

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_shards_that_lack_a_table_go(self, tmp_path, table):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        write_rows(tmp_path, [good("b.mp4")], FULL)
        (tmp_path / table / part_paths(tmp_path, table, FULL.config_id)[0].name).unlink()

        assert remove_incomplete(tmp_path, FULL) == 3
        assert len(finished_videos(tmp_path, FULL.config_id)) == 1

    def test_other_configurations_stay(self, tmp_path):
        other = RowOptions(LABELS, "other", "fedcba9876543210")
        write_rows(tmp_path, [good("a.mp4")], other)

        assert remove_incomplete(tmp_path, FULL) == 0
        assert len(finished_videos(tmp_path, other.config_id)) == 1

    def test_half_files_go(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)
        (tmp_path / "clips" / f".part-1.parquet.{2**22 + 1}-8.new").write_bytes(b"half")

        assert remove_incomplete(tmp_path, OPTIONS) == 1

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_parts_that_a_power_cut_left_empty_go_with_their_shard(self, tmp_path, table):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        part_paths(tmp_path, table, FULL.config_id)[0].write_bytes(b"")

        assert remove_incomplete(tmp_path, FULL) == 4
        assert finished_videos(tmp_path, FULL.config_id) == []

    def test_a_folder_that_is_not_there_needs_none(self, tmp_path):
        assert remove_incomplete(tmp_path / "new", OPTIONS) == 0


class TestDone:
    def test_videos_of_a_configuration_with_their_copies(self, tmp_path):
        copies = (("c.mp4", "/videos/c.mp4"),)
        write_rows(tmp_path, [good("a.mp4", copies=copies), bad("b.mp4")], OPTIONS)

        assert finished_videos(tmp_path, OPTIONS.config_id) == [
            FinishedVideo("a.mp4", "/videos/a.mp4", "id-a.mp4", "ok"),
            FinishedVideo("c.mp4", "/videos/c.mp4", "id-a.mp4", "ok"),
            FinishedVideo("b.mp4", "/videos/b.mp4", "id-b.mp4", "not_video"),
        ]
        assert finished_videos(tmp_path, "fedcba9876543210") == []


class TestDropRows:
    def test_rows_of_a_video_go_from_every_table(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4"), good("b.mp4"), bad("c.mp4")], FULL)
        write_rows(tmp_path, [good("d.mp4")], FULL)

        assert drop_rows(tmp_path, FULL.config_id, {"id-a.mp4", "id-c.mp4"}) == 2

        for table in SCHEMAS:
            assert set(pd.read_parquet(tmp_path / table).video) == {"b.mp4", "d.mp4"}

    def test_copies_go_with_their_video(self, tmp_path):
        copies = (("c.mp4", "/videos/c.mp4"),)
        write_rows(tmp_path, [good("a.mp4", copies=copies), good("b.mp4")], FULL)

        assert drop_rows(tmp_path, FULL.config_id, {"id-a.mp4"}) == 2
        assert set(pd.read_parquet(tmp_path / "clips").video) == {"b.mp4"}

    def test_another_video_of_the_same_name_stays(self, tmp_path):
        one, other = good("same.mp4", video_id="1"), good("same.mp4", video_id="2")
        write_rows(tmp_path, [one, other], FULL)

        drop_rows(tmp_path, FULL.config_id, {"1"})

        for table in SCHEMAS:
            assert set(pd.read_parquet(tmp_path / table).video_id) == {"2"}

    def test_other_configurations_stay(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert drop_rows(tmp_path, "fedcba9876543210", {"id-a.mp4"}) == 0
        assert len(pd.read_parquet(tmp_path / "clips")) == 2

    def test_parts_without_the_video_are_not_written(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}

        assert drop_rows(tmp_path, OPTIONS.config_id, {"id-b.mp4"}) == 0
        assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == before

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_a_crash_on_the_way_is_mended_by_the_next_attempt(self, tmp_path, monkeypatch, table):
        """The row by which it is known what to drop must go last."""
        write_rows(tmp_path, [good("a.mp4"), good("b.mp4")], FULL)

        def fail(rows, path):
            if path.parent.name == table:
                raise OSError(28, "No space left on device")
            write_table(rows, path)

        with monkeypatch.context() as patched:
            patched.setattr(tables, "write_table", fail)
            with pytest.raises(OSError, match="No space left"):
                drop_rows(tmp_path, FULL.config_id, {"id-a.mp4"})

        assert drop_rows(tmp_path, FULL.config_id, {"id-a.mp4"}) == 1
        for name in SCHEMAS:
            assert set(pd.read_parquet(tmp_path / name).video) == {"b.mp4"}


class TestRunFile:
    def test_nothing_was_run_yet(self, tmp_path):
        assert read_run(tmp_path) == {}

    def test_configurations_of_earlier_runs_are_kept(self, tmp_path):
        write_run(tmp_path, {"config_id": "1", "configuration": {"a": 1}, "counts": {"clips": 5}})
        write_run(tmp_path, {"config_id": "2", "configuration": {"a": 2}, "counts": {"clips": 7}})

        run = read_run(tmp_path)
        assert run["config_id"] == "2"
        assert run["counts"] == {"clips": 7}
        assert run["configurations"] == {"1": {"a": 1}, "2": {"a": 2}}

    def test_the_same_configuration_is_kept_once(self, tmp_path):
        for number in (1, 2):
            write_run(tmp_path, {"config_id": "1", "configuration": {"a": number}})

        assert read_run(tmp_path)["configurations"] == {"1": {"a": 2}}
        assert json.loads((tmp_path / "run.json").read_text()) == read_run(tmp_path)


def test_results_are_read_without_torch():
    """It takes seconds to import, and has nothing to say here."""
    asked = "import sys, pipeline.results.report; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
