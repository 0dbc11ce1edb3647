"""The feature store: what is written is read again, by other processes too."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Sampling
from pipeline.encode import feature_store as module
from pipeline.encode.feature_store import FeatureStore, features_id
from pipeline.errors import DamagedFileError, MachineError
from pipeline.records import DecodeReport, FrameFeatures
from tests.damage import corrupt_footer, corrupt_page

ROOT = Path(__file__).resolve().parents[2]
OK = DecodeReport("ok", decoder="opencv", attempts=("decord: refused",), frames_decoded=7)


def part(video_id, start=0, stop=4, num_samples=None, *, seed=0, report=OK, size=3):
    """Make the features of one chunk."""
    count = stop - start
    index = np.arange(start, stop)
    return FrameFeatures(
        video_id=video_id,
        start=start,
        stop=stop,
        num_samples=stop if num_samples is None else num_samples,
        values=np.random.default_rng(seed).normal(size=(count, size)).astype(np.float16),
        sample_index=index,
        frame_index=index * 2,
        pts_seconds=index / 10,
        report=report,
    )


def assert_same(found, expected):
    assert found.values.dtype == np.float16
    for name in ("values", "sample_index", "frame_index", "pts_seconds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("video_id", "start", "stop", "num_samples", "report"):
        assert getattr(found, name) == getattr(expected, name)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "features", 3)


def reopen(store):
    """Open the same folder, as another process would."""
    return FeatureStore(store.folder, store.size)


class TestStore:
    def test_reads_what_was_written(self, store):
        written = [part("a", seed=1), part("b", 0, 2, seed=2), part("c", 0, 7, seed=3)]
        store.write(written)

        for opened in (store, reopen(store)):
            for expected in written:
                (found,) = opened.stream(expected.video_id)
                assert_same(found, expected)
            assert opened.reports("b") == [OK]

    def test_chunks_are_streamed_in_order_of_their_samples(self, store):
        parts = [part("a", start, start + 3, 9, seed=start) for start in (0, 3, 6)]
        for number in (2, 0, 1):
            store.write([parts[number]])

        for opened in (store, reopen(store)):
            assert opened.chunks("a") == [(0, 3), (3, 6), (6, 9)]
            for found, expected in zip(opened.stream("a"), parts, strict=True):
                assert_same(found, expected)
            assert opened.reports("a") == [OK, OK, OK]

    def test_streams_one_chunk_at_a_time(self, store, monkeypatch):
        for start in (0, 3, 6):
            store.write([part("a", start, start + 3, 9)])
        reads = []
        read = module.read_table
        monkeypatch.setattr(module, "read_table", lambda path: reads.append(path) or read(path))
        stream = store.stream("a")
        next(stream)

        assert len(reads) == 1

    def test_a_part_of_a_video_is_not_complete(self, store):
        store.write([part("a", 0, 3, 9), part("a", 6, 9, 9)])

        for opened in (store, reopen(store)):
            assert not opened.has("a")
            assert opened.chunks("a") == [(0, 3), (6, 9)]
            with pytest.raises(KeyError, match="a"):
                next(opened.stream("a"))
            with pytest.raises(KeyError, match="a"):
                opened.reports("a")

    def test_unknown_videos(self, store):
        store.write([part("a")])

        assert store.has("a")
        assert not store.has("b")
        assert store.chunks("b") == []
        with pytest.raises(KeyError, match="b"):
            store.reports("b")

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ([(0, 5), (0, 9)], [(0, 9)]),
            ([(0, 9), (0, 5)], [(0, 9)]),
            ([(0, 5), (0, 4), (4, 9)], [(0, 4), (4, 9)]),
            ([(4, 9), (2, 6), (0, 4), (0, 5)], [(0, 4), (4, 9)]),
        ],
    )
    def test_overlapping_chunks_do_not_hide_a_complete_cover(self, store, written, expected):
        """An interrupted run with smaller shards had split the video differently."""
        for start, stop in written:
            store.write([part("a", start, stop, 9)])

        for opened in (store, reopen(store)):
            assert opened.has("a")
            assert opened.chunks("a") == sorted(written)
            assert [(f.start, f.stop) for f in opened.stream("a")] == expected

    def test_a_video_without_frames_keeps_its_report(self, store):
        bad = DecodeReport("undecodable", "no frame could be decoded", attempts=("decord: x",))
        store.write([part("a"), FrameFeatures.empty("bad", 3, bad), part("c", seed=4)])

        for opened in (store, reopen(store)):
            assert opened.has("bad")
            assert opened.reports("bad") == [bad]
            (found,) = opened.stream("bad")
            assert found.values.shape == (0, 3)
            assert_same(next(opened.stream("c")), part("c", seed=4))

    def test_only_videos_without_frames(self, store):
        bad = DecodeReport("not_video", "the file holds no video")
        store.write([FrameFeatures.empty("bad", 3, bad)])

        (found,) = reopen(store).stream("bad")
        assert found.report == bad
        assert found.whole

    def test_samples_that_could_not_be_decoded_leave_a_gap(self, store):
        whole = part("a", 0, 6)
        kept = np.array([0, 1, 4])
        with_gap = FrameFeatures(
            "a", 0, 6, 6, whole.values[kept], kept, kept * 2, kept / 10, DecodeReport("partial")
        )
        store.write([with_gap])

        assert store.has("a")
        assert_same(next(reopen(store).stream("a")), with_gap)

    def test_equal_chunks_have_the_same_file(self, store):
        first = store.write([part("a", seed=1), part("b", seed=2)])[0].path
        second = store.write([part("a", seed=3), part("b", seed=4)])[0].path
        other = store.write([part("c")])[0].path

        assert first == second != other
        assert store.chunks("a") == [(0, 4)]
        assert_same(next(store.stream("b")), part("b", seed=4))

    def test_a_replaced_file_is_read_with_its_new_rows(self, store):
        """The second attempt decoded fewer frames of the first video."""
        short = part("a", 0, 4)
        short = FrameFeatures("a", 0, 4, 4, *(x[:1] for x in arrays(short)), OK)
        store.write([part("a"), part("b", seed=5)])
        store.write([short, part("b", seed=6)])

        assert_same(next(store.stream("a")), short)
        assert_same(next(store.stream("b")), part("b", seed=6))

    def test_a_thread_reads_a_file_once_for_all_its_videos(self, store, monkeypatch):
        parts = [part(name, seed=number) for number, name in enumerate("abc")]
        store.write(parts)
        read, right = [], module.read_table
        monkeypatch.setattr(module, "read_table", lambda path: read.append(path) or right(path))

        for wanted in parts:
            assert_same(next(store.stream(wanted.video_id)), wanted)

        assert len(read) == 1

    def test_a_file_replaced_after_it_was_read_is_read_again(self, store):
        store.write([part("a", seed=1)])
        assert_same(next(store.stream("a")), part("a", seed=1))
        store.write([part("a", seed=2)])

        assert_same(next(store.stream("a")), part("a", seed=2))

    def test_leaves_no_temporary_file(self, store):
        store.write([part("a")])
        path = store.write([part("b")])[0].path

        assert path.parent == store.folder
        assert all(name.name.startswith("part-") for name in store.folder.iterdir())
        assert len(list(store.folder.iterdir())) == 2

    def test_a_write_that_fails_leaves_nothing(self, store, monkeypatch):
        def full(table, path, **_):
            path.write_bytes(b"PAR1 half")
            raise OSError("no space left on device")

        monkeypatch.setattr(pq, "write_table", full)
        with pytest.raises(MachineError, match="cannot be written: no space left"):
            store.write([part("a")])

        assert list(store.folder.iterdir()) == []
        assert not store.has("a")
        assert not reopen(store).has("a")

    def test_many_threads_write_at_once(self, store):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: store.write([part("a", n, n + 1, 24, seed=n)]), range(24)))

        for opened in (store, reopen(store)):
            found = [f.values[0] for f in opened.stream("a")]
            expected = [part("a", n, n + 1, 24, seed=n).values[0] for n in range(24)]
            np.testing.assert_array_equal(found, expected)

    def test_features_are_not_nullable(self, store):
        """Definition levels of nullable values would double the reading time."""
        path = store.write([part("a")])[0].path

        column = pq.ParquetFile(path).schema.column(4)

        assert column.path == "feature.list.element"
        assert column.max_definition_level == 1  # for Parquet, a list may be empty

    def test_nullable_features_are_read_too(self, store):
        """As in stores of earlier versions."""
        path = store.write([part("a")])[0].path
        table = pq.read_table(path)
        kinds = [pa.list_(pa.float16(), 3) if f.name == "feature" else f.type for f in table.schema]
        older = pa.schema(
            list(zip(table.column_names, kinds, strict=True)), metadata=table.schema.metadata
        )
        pq.write_table(table.cast(older), path)

        assert_same(next(reopen(store).stream("a")), part("a"))

    def test_features_are_writeable(self, store):
        """torch does not accept other memory."""
        store.write([part("a")])

        assert next(store.stream("a")).values.flags.writeable

    def test_features_of_one_video_keep_no_others_in_memory(self, store):
        store.write([part("a"), part("b"), part("c", 0, 2)])
        (found,) = store.stream("b")

        assert found.values.base is None or found.values.base.nbytes == found.values.nbytes
        assert found.pts_seconds.base is None

    def test_frames_at_once_is_the_length_of_the_longest_chunk(self, store):
        store.write([part("a", 0, 3, 10), part("b", 0, 2)])
        store.write([part("a", 3, 10, 10)])

        assert store.frames_at_once("a") == 7
        assert store.frames_at_once("b") == 2
        with pytest.raises(KeyError):
            store.frames_at_once("c")

    def test_an_empty_file_is_not_used(self, store, caplog):
        store.write([part("a")])
        path = store.write([part("b")])[0].path
        path.write_bytes(b"")

        found = reopen(store)

        assert (found.has("a"), found.has("b")) == (True, False)
        assert f"{path} is damaged" in caplog.text

    def test_a_file_with_a_damaged_footer_is_not_used(self, store, caplog):
        """Arrow raises OSError for it, not ArrowInvalid."""
        store.write([part("a")])
        path = store.write([part("b")])[0].path
        corrupt_footer(path)

        found = reopen(store)

        assert (found.has("a"), found.has("b")) == (True, False)
        assert f"{path} is damaged" in caplog.text

    def test_a_file_with_a_damaged_page_is_renamed_and_its_videos_are_encoded_again(self, store):
        store.write([part("a")])
        path = store.write([part("b"), part("c")])[0].path
        corrupt_page(path, "feature")

        with pytest.raises(DamagedFileError, match=rf"{path} is damaged"):
            list(store.stream("b"))

        assert path.with_name(f"_damaged-{path.name}").exists()
        for found in (store, reopen(store)):
            assert [found.has(name) for name in "abc"] == [True, False, False]
        store.write([part("b"), part("c")])
        assert_same(next(store.stream("b")), part("b"))

    def test_a_damaged_file_can_be_forgotten(self, store):
        path = store.write([part("a"), part("b")])[0].path
        corrupt_page(path, "feature")

        store.forget({"a"})

        assert not store.has("b")
        assert not path.exists()

    def test_unknown_fields_of_metadata_are_ignored(self, store):
        path = store.write([part("a"), part("b")])[0].path
        change_metadata(path, lambda entry: entry.update(new=1) or entry["report"].update(new=2))

        assert_same(next(reopen(store).stream("b")), part("b"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda entry: entry.pop("num_samples"), "no field 'num_samples'"),
            (lambda entry: entry.pop("report"), "no field 'report'"),
            (lambda entry: entry["report"].update(status="new"), "status must be one of"),
            (lambda entry: entry.update(report=3), "cannot be read"),
        ],
    )
    def test_a_file_with_metadata_of_an_unknown_version_is_not_used(
        self, store, caplog, change, message
    ):
        store.write([part("a")])
        change_metadata(store.write([part("b")])[0].path, change)

        found = reopen(store)

        assert (found.has("a"), found.has("b")) == (True, False)
        assert message in caplog.text

    def test_pandas_reads_it(self, store):
        store.write([part("a", seed=1), part("b", 0, 2, seed=2)])
        rows = pd.read_parquet(store.folder)

        assert list(rows) == ["video_id", "sample_index", "frame_index", "pts_seconds", "feature"]
        assert rows["video_id"].tolist() == ["a"] * 4 + ["b"] * 2
        assert rows["sample_index"].tolist() == [0, 1, 2, 3, 0, 1]
        values = np.stack(rows.loc[rows.video_id == "b", "feature"].tolist())
        assert values.dtype == np.float16
        np.testing.assert_array_equal(values, part("b", 0, 2, seed=2).values)


def change_metadata(path, change):
    table = pq.read_table(path)
    entries = json.loads(table.schema.metadata[module.METADATA_KEY])
    for entry in entries:
        change(entry)
    table = table.replace_schema_metadata({module.METADATA_KEY: json.dumps(entries)})
    pq.write_table(table, path)


KILLED = """
import os, sys
from pathlib import Path
import pyarrow.parquet as pq
from pipeline.encode.feature_store import FeatureStore
from tests.encode.test_feature_store import part

def write_half(table, path, **_):
    path.write_bytes(b"PAR1 half")
    os.kill(os.getpid(), 9)

pq.write_table = write_half
FeatureStore(Path(sys.argv[1]), 3).write([part("b")])
"""


class TestAbandonedFiles:
    def test_the_next_run_deletes_the_file_of_a_killed_writer(self, store):
        store.write([part("a")])
        command = [sys.executable, "-c", KILLED, str(store.folder)]
        killed = subprocess.run(command, cwd=ROOT, check=False)

        assert killed.returncode == -9
        assert len(list(store.folder.glob(".part-*.new"))) == 1
        assert reopen(store).remove_abandoned_files() == 1
        assert [path.suffix for path in store.folder.iterdir()] == [".parquet"]

    def test_the_file_of_a_running_writer_is_kept(self, store, monkeypatch):
        def write_slowly(table, path, **_):
            path.write_bytes(b"PAR1 half")
            assert reopen(store).remove_abandoned_files() == 0
            right(table, path)

        right = pq.write_table
        monkeypatch.setattr(pq, "write_table", write_slowly)

        store.write([part("a")])
        assert reopen(store).has("a")


class TestFeaturesId:
    def test_ids_of_the_first_version_are_unchanged(self):
        """Otherwise stored features would be computed again."""
        assert features_id("0123456789abcdef", Sampling(fps=8), "float32") == "d6c9164e215e071e"

    def test_it_changes_with_the_version(self):
        ids = {
            features_id("0123456789abcdef", Sampling(fps=8), "float32", version)
            for version in (1, 2, 3)
        }

        assert len(ids) == 3


def arrays(features):
    return features.values, features.sample_index, features.frame_index, features.pts_seconds


class TestForget:
    def test_a_forgotten_video_is_removed_for_later_runs_too(self, store):
        store.write([part("a"), part("b", seed=2)])
        store.forget({"a"})

        for opened in (store, reopen(store)):
            assert not opened.has("a")
            assert opened.chunks("a") == []
            assert_same(next(opened.stream("b")), part("b", seed=2))

    def test_features_written_after_forgetting_are_found(self, store):
        """The next attempt writes another file."""
        bad = DecodeReport("undecodable", "no frame")
        store.write([part("b", seed=2), FrameFeatures.empty("a", 3, bad), part("c")])
        store.forget({"a"})
        store.write([part("a", seed=7)])

        for opened in (store, reopen(store)):
            assert opened.reports("a") == [OK]
            assert_same(next(opened.stream("a")), part("a", seed=7))
            assert_same(next(opened.stream("b")), part("b", seed=2))

    def test_concurrent_readers_still_find_their_rows(self, store):
        store.write([part("a"), part("b", seed=2)])
        reader = reopen(store)
        store.forget({"a"})

        assert_same(next(reader.stream("b")), part("b", seed=2))

    def test_all_chunks_are_forgotten(self, store):
        for start in (0, 3):
            store.write([part("a", start, start + 3, 6), part(f"other {start}")])
        store.forget({"a"})

        assert reopen(store).chunks("a") == []
        assert reopen(store).has("other 3")

    def test_an_unknown_video(self, store):
        store.write([part("a")])
        store.forget({"b"})

        assert reopen(store).has("a")
