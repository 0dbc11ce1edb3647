from __future__ import annotations

import json
import subprocess
import sys
from typing import ClassVar

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DamagedFileError, SourceError
from pipeline.results import tables
from pipeline.results.rows import RowOptions
from pipeline.results.schemas import SCHEMAS
from pipeline.results.tables import (
    FinishedVideo,
    drop_rows,
    finished_videos,
    load,
    part_paths,
    read_run,
    read_shards,
    remove_incomplete,
    write_rows,
    write_run,
)
from pipeline.storage import write_table
from tests.damage import corrupt_footer, corrupt_page
from tests.results.example_rows import FULL, LABELS, OPTIONS, bad, finish, good


class TestLoad:
    def test_pandas_alone_reads_a_table(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)
        write_rows(tmp_path, [bad("b.mp4")], OPTIONS)
        code = (
            "import pandas as pd, sys\n"
            "rows = pd.read_parquet(sys.argv[1])\n"
            "assert not [name for name in sys.modules if name.startswith('pipeline')]\n"
            "print(rows.label.tolist(), [list(s) for s in rows.scores][0])"
        )

        output = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "clips"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

        assert "['left', 'right']" in output

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

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_selected_columns_are_loaded_in_their_order(self, tmp_path, table):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        finish(tmp_path)
        columns = ["config_id", "video"]

        assert load(tmp_path, table, columns=columns).columns.tolist() == columns
        assert load(tmp_path, table, FULL.config_id, ["video"]).video[0] == "a.mp4"

    def test_an_unknown_column_fails(self, tmp_path):
        finish(tmp_path)

        with pytest.raises(SourceError, match="no column 'labels' in clips; there are video, vid"):
            load(tmp_path, columns=["labels"])
        with pytest.raises(SourceError, match="no column 'label' in features; there are video,"):
            load(tmp_path, "features", columns=["feature", "label"])

    def test_columns_that_an_older_version_did_not_write_are_null(self, tmp_path):
        """Files of both versions are read together."""
        write_rows(tmp_path, [good("a.mp4", 1)], FULL)
        (part,) = part_paths(tmp_path, "clips", FULL.config_id)
        write_table(pq.read_table(part).drop_columns(["novelty", "embedding"]), part)
        write_rows(tmp_path, [good("b.mp4", 1)], FULL)
        finish(tmp_path)

        clips = load(tmp_path).set_index("video")
        assert clips.reset_index().columns.tolist() == SCHEMAS["clips"].names
        assert clips.embedding["a.mp4"] is None
        assert clips.embedding["b.mp4"].tolist() == [0, 0]
        assert len(load(tmp_path, columns=["novelty"])) == 2

    def test_a_damaged_file_is_named(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        finish(tmp_path)
        (part,) = part_paths(tmp_path, "clips", FULL.config_id)
        corrupt_page(part, "scores")

        with pytest.raises(DamagedFileError, match=rf"{part} is damaged .*delete it if"):
            load(tmp_path)
        assert len(load(tmp_path, columns=["label"])) == 2

    def test_an_unknown_table_fails(self, tmp_path):
        message = "no table 'rows'; there are clips, segments, frames, shots, videos"
        with pytest.raises(SourceError, match=message):
            load(tmp_path, "rows")

    def test_a_folder_without_results_fails(self, tmp_path):
        with pytest.raises(SourceError, match=r"holds no results: no run\.json"):
            load(tmp_path)


class TestRemoveIncomplete:
    def test_finished_shards_are_kept(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], FULL)

        assert remove_incomplete(tmp_path, FULL) == 0
        assert len(list(tmp_path.glob("*/*.parquet"))) == len(SCHEMAS)

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_shards_without_one_of_the_tables_are_removed(self, tmp_path, table):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        write_rows(tmp_path, [good("b.mp4")], FULL)
        (tmp_path / table / part_paths(tmp_path, table, FULL.config_id)[0].name).unlink()

        assert remove_incomplete(tmp_path, FULL) == len(SCHEMAS) - 1
        assert len(finished_videos(tmp_path, FULL.config_id)) == 1

    def test_other_configurations_are_kept(self, tmp_path):
        other = RowOptions(LABELS, "other", "fedcba9876543210")
        write_rows(tmp_path, [good("a.mp4")], other)

        assert remove_incomplete(tmp_path, FULL) == 0
        assert len(finished_videos(tmp_path, other.config_id)) == 1

    def test_temporary_files_are_removed(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)
        (tmp_path / "clips" / f".part-1.parquet.{2**22 + 1}-8.new").write_bytes(b"half")

        assert remove_incomplete(tmp_path, OPTIONS) == 1

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_a_shard_with_an_empty_file_is_removed(self, tmp_path, table):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        part_paths(tmp_path, table, FULL.config_id)[0].write_bytes(b"")

        assert remove_incomplete(tmp_path, FULL) == len(SCHEMAS)
        assert finished_videos(tmp_path, FULL.config_id) == []

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_a_shard_with_a_damaged_footer_is_removed(self, tmp_path, table, caplog):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        write_rows(tmp_path, [good("b.mp4")], FULL)
        damaged = part_paths(tmp_path, table, FULL.config_id)[0]
        corrupt_footer(damaged)

        assert remove_incomplete(tmp_path, FULL) == len(SCHEMAS)

        assert f"{damaged} is damaged" in caplog.text
        assert f"renamed to _damaged-{damaged.name}" in caplog.text
        assert damaged.with_name(f"_damaged-{damaged.name}").exists()
        assert len(finished_videos(tmp_path, FULL.config_id)) == 1
        for name in SCHEMAS:  # pandas skips the renamed file
            assert pd.read_parquet(tmp_path / name).video.nunique() == 1
        assert remove_incomplete(tmp_path, FULL) == 0

    def test_a_missing_folder_has_nothing_to_remove(self, tmp_path):
        assert remove_incomplete(tmp_path / "new", OPTIONS) == 0


class TestFinishedVideos:
    def test_copies_are_included(self, tmp_path):
        copies = (("c.mp4", "/videos/c.mp4"),)
        write_rows(tmp_path, [good("a.mp4", copies=copies), bad("b.mp4")], OPTIONS)

        assert finished_videos(tmp_path, OPTIONS.config_id) == [
            FinishedVideo("a.mp4", "/videos/a.mp4", "id-a.mp4", "ok"),
            FinishedVideo("c.mp4", "/videos/c.mp4", "id-a.mp4", "ok"),
            FinishedVideo("b.mp4", "/videos/b.mp4", "id-b.mp4", "not_video"),
        ]
        assert finished_videos(tmp_path, "fedcba9876543210") == []

    def test_videos_of_a_damaged_file_are_not_finished(self, tmp_path, caplog):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        write_rows(tmp_path, [good("b.mp4")], FULL)
        damaged = part_paths(tmp_path, "videos", FULL.config_id)[0]
        (name,) = pd.read_parquet(damaged).video
        corrupt_page(damaged, "status")

        (left,) = finished_videos(tmp_path, FULL.config_id)

        assert {left.video, name} == {"a.mp4", "b.mp4"}
        assert f"{damaged} is damaged" in caplog.text
        for table in SCHEMAS:  # no rows of unfinished videos are left
            assert pd.read_parquet(tmp_path / table).video.unique().tolist() == [left.video]


class TestReadShards:
    COLUMNS: ClassVar = {"videos": ["video"], "clips": ["label", "score"]}

    def test_rows_of_one_shard_after_the_other(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4"), bad("b.mp4")], FULL)
        write_rows(tmp_path, [good("c.mp4", 3)], FULL)

        shards = list(read_shards(tmp_path, FULL.config_id, self.COLUMNS))

        assert all(shard["clips"].column_names == ["label", "score"] for shard in shards)
        rows = {tuple(s["videos"]["video"].to_pylist()): len(s["clips"]) for s in shards}
        assert rows == {("a.mp4", "b.mp4"): 2, ("c.mp4",): 3}

    def test_a_damaged_shard_is_skipped_and_processed_again(self, tmp_path, caplog):
        write_rows(tmp_path, [good("a.mp4")], FULL)
        write_rows(tmp_path, [good("b.mp4")], FULL)
        damaged = part_paths(tmp_path, "clips", FULL.config_id)[0]
        corrupt_page(damaged, "label")

        assert len(list(read_shards(tmp_path, FULL.config_id, self.COLUMNS))) == 1

        assert f"{damaged} is damaged" in caplog.text
        assert len(finished_videos(tmp_path, FULL.config_id)) == 1


class TestDropRows:
    def test_rows_are_deleted_from_every_table(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4"), good("b.mp4"), bad("c.mp4")], FULL)
        write_rows(tmp_path, [good("d.mp4")], FULL)

        assert drop_rows(tmp_path, FULL.config_id, {"id-a.mp4", "id-c.mp4"}) == 2

        for table in SCHEMAS:
            assert set(pd.read_parquet(tmp_path / table).video) == {"b.mp4", "d.mp4"}

    def test_copies_are_deleted_with_their_video(self, tmp_path):
        copies = (("c.mp4", "/videos/c.mp4"),)
        write_rows(tmp_path, [good("a.mp4", copies=copies), good("b.mp4")], FULL)

        assert drop_rows(tmp_path, FULL.config_id, {"id-a.mp4"}) == 2
        assert set(pd.read_parquet(tmp_path / "clips").video) == {"b.mp4"}

    def test_another_video_of_the_same_name_is_kept(self, tmp_path):
        one, other = good("same.mp4", video_id="1"), good("same.mp4", video_id="2")
        write_rows(tmp_path, [one, other], FULL)

        drop_rows(tmp_path, FULL.config_id, {"1"})

        for table in SCHEMAS:
            assert set(pd.read_parquet(tmp_path / table).video_id) == {"2"}

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_a_damaged_shard_is_removed(self, tmp_path, table, caplog):
        write_rows(tmp_path, [good("a.mp4"), good("b.mp4")], FULL)
        write_rows(tmp_path, [good("c.mp4")], FULL)
        (damaged,) = [
            path
            for path in part_paths(tmp_path, table, FULL.config_id)
            if "a.mp4" in set(pd.read_parquet(path).video)
        ]
        corrupt_page(damaged, "video_id")

        drop_rows(tmp_path, FULL.config_id, {"id-a.mp4"})

        assert f"{damaged} is damaged" in caplog.text
        assert [video.video for video in finished_videos(tmp_path, FULL.config_id)] == ["c.mp4"]

    def test_other_configurations_are_kept(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)

        assert drop_rows(tmp_path, "fedcba9876543210", {"id-a.mp4"}) == 0
        assert len(pd.read_parquet(tmp_path / "clips")) == 2

    def test_files_without_the_video_are_not_written(self, tmp_path):
        write_rows(tmp_path, [good("a.mp4")], OPTIONS)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}

        assert drop_rows(tmp_path, OPTIONS.config_id, {"id-b.mp4"}) == 0
        assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == before

    @pytest.mark.parametrize("table", SCHEMAS)
    def test_the_next_attempt_completes_an_interrupted_one(self, tmp_path, monkeypatch, table):
        """The row in `videos` selects the files, so it is deleted last."""
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
    def test_without_a_run_it_is_empty(self, tmp_path):
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


def test_results_are_imported_without_torch():
    """Importing torch takes seconds."""
    code = "import sys, pipeline.results.report; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
