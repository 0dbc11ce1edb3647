from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DamagedFileError, MachineError, OptionError
from pipeline.storage import (
    file_lock,
    printable,
    read_schema,
    read_table,
    redact_url,
    remove_temporary_files,
    set_aside,
    temporary_path,
    write_json,
    write_table,
    write_text,
)
from tests.damage import corrupt_footer

ROOT = Path(__file__).resolve().parents[1]


class TestPrintable:
    def test_plain_names_stay_as_they_are(self):
        assert printable("dir/clip ü 三.mp4") == "dir/clip ü 三.mp4"
        assert printable(Path("a") / "b") == "a/b"

    def test_undecodable_bytes_are_escaped(self):
        name = os.fsdecode(b"caf\xe9.mp4")

        assert printable(name) == "caf\\xe9.mp4"
        assert printable(name).encode() == b"caf\\xe9.mp4"


class TestRedactUrl:
    @pytest.mark.parametrize(
        ("url", "redacted"),
        [
            ("http://me:secret@host:80/api", "http://host:80/api"),
            ("https://host/a.mp4?token=secret#secret", "https://host/a.mp4"),
            ("rtsp://me:se@cret@cam", "rtsp://cam"),
            ("http://[::1/x", "http://[::1/x"),
            ("dir/a@b?c#d.mp4", "dir/a@b?c#d.mp4"),
        ],
    )
    def test_user_password_and_query_are_removed(self, url, redacted):
        assert redact_url(url) == redacted


class TestAtomicWrites:
    def test_a_table_is_read_back(self, tmp_path):
        table = pa.table({"a": [1, 2], "b": ["x", None]})

        write_table(table, tmp_path / "deep" / "er" / "t.parquet")

        assert pq.read_table(tmp_path / "deep" / "er" / "t.parquet") == table

    def test_only_columns_without_lists_are_dictionary_encoded(self, tmp_path):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(range(6)), 2)
        write_table(pa.table({"name": ["a", "a", "b"], "vector": vectors}), tmp_path / "t.parquet")

        group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
        assert [group.column(n).has_dictionary_page for n in range(2)] == [True, False]

    def test_text_and_json_are_read_back(self, tmp_path):
        write_text("naïve\n", tmp_path / "t.txt")
        write_json({"b": 1, "a": [None, 2.5]}, tmp_path / "t.json")

        assert (tmp_path / "t.txt").read_text("utf-8") == "naïve\n"
        assert (tmp_path / "t.json").read_text().startswith('{\n  "a"')
        assert json.loads((tmp_path / "t.json").read_text()) == {"a": [None, 2.5], "b": 1}

    def test_undecodable_text_is_escaped(self, tmp_path):
        write_text(os.fsdecode(b"caf\xe9"), tmp_path / "t.txt")

        assert (tmp_path / "t.txt").read_bytes() == b"caf\\udce9"

    def test_no_temporary_file_remains(self, tmp_path):
        write_text("old", tmp_path / "t.txt")
        write_text("new", tmp_path / "t.txt")

        assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]
        assert (tmp_path / "t.txt").read_text() == "new"

    @pytest.mark.parametrize(
        ("error", "raised", "words"),
        [
            (
                OSError(28, "No space left on device"),
                MachineError,
                r"t\.txt cannot be written: No space left on device; free disk space, .* again",
            ),
            (KeyboardInterrupt(), KeyboardInterrupt, None),
        ],
    )
    def test_a_failed_write_keeps_the_old_file(self, tmp_path, monkeypatch, error, raised, words):
        write_text("old", tmp_path / "t.txt")

        def write_half(path, data):
            path.write_text("n")
            raise error

        monkeypatch.setattr(Path, "write_bytes", write_half)
        with pytest.raises(raised, match=words):
            write_text("new", tmp_path / "t.txt")

        assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]
        assert (tmp_path / "t.txt").read_text() == "old"

    def test_a_failed_write_of_a_table_leaves_no_file(self, tmp_path):
        table = pa.table({"a": [1, 2]}).to_pandas()  # no Arrow table

        with pytest.raises(AttributeError):
            write_table(table, tmp_path / "t.parquet")

        assert list(tmp_path.iterdir()) == []

    def test_a_reader_never_sees_a_part_of_a_file(self, tmp_path):
        path = tmp_path / "t.json"
        write_json(["0"] * 20_000, path)
        ended = threading.Event()

        def rewrite():
            for number in range(60):
                write_json([str(number % 10)] * 20_000, path)
            ended.set()

        writer = threading.Thread(target=rewrite)
        writer.start()
        seen = set()
        while not ended.is_set():
            seen.add((len(set(json.loads(path.read_text()))), path.stat().st_size))
        writer.join()

        assert {count for count, _ in seen} == {1}
        assert len({size for _, size in seen}) == 1

    def test_threads_may_write_the_same_file(self, tmp_path):
        path = tmp_path / "t.txt"
        threads = [
            threading.Thread(target=lambda n=n: write_text(str(n) * 9999, path)) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(set(path.read_text())) == 1
        assert [found.name for found in tmp_path.iterdir()] == ["t.txt"]

    def test_a_killed_writer_leaves_the_old_file_and_a_temporary_file(self, tmp_path):
        write_text("old", tmp_path / "t.txt")
        code = (
            "import os, sys; from pathlib import Path; from pipeline.storage import write_text\n"
            "def half(path, data): path.write_text('n'); os.kill(os.getpid(), 9)\n"
            "Path.write_bytes = half; write_text('new', Path(sys.argv[1]))"
        )

        ended = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "t.txt"], cwd=ROOT, check=False
        )

        assert ended.returncode == -9
        assert (tmp_path / "t.txt").read_text() == "old"
        assert remove_temporary_files(tmp_path) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


UNUSED_PID = 2**22 + 1
"""A process id that is never used: above the maximum of Linux."""


class TestReadTable:
    SCHEMA = pa.schema([("name", pa.string()), ("number", pa.float64()), ("new", pa.int32())])

    @pytest.fixture
    def path(self, tmp_path):
        table = pa.table(
            {"number": pa.array([1, 2], pa.int32()), "name": ["x", "y"], "old": [0, 0]}
        )
        write_table(table, tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    def test_all_columns_are_read_by_default(self, path):
        assert read_table(path) == pq.read_table(path)
        assert read_schema(path) == pq.read_schema(path)

    def test_a_schema_selects_adds_and_converts_columns(self, path):
        table = read_table(path, self.SCHEMA)

        assert table.schema == self.SCHEMA
        assert table.to_pydict() == {"name": ["x", "y"], "number": [1, 2], "new": [None, None]}

    def test_a_file_without_any_of_the_columns_keeps_its_rows(self, path):
        assert len(read_table(path, pa.schema([("new", pa.int32())]))) == 2

    @pytest.mark.parametrize("size", [0, 3, 100, -1])
    def test_a_truncated_file_fails(self, path, size):
        path.write_bytes(path.read_bytes()[:size])

        for read in (read_table, read_schema):
            with pytest.raises(DamagedFileError, match=r"t\.parquet is damaged"):
                read(path)

    def test_a_corrupted_footer_fails(self, path):
        """Arrow raises OSError for it, not ArrowInvalid."""
        corrupt_footer(path)

        for read in (read_table, read_schema):
            with pytest.raises(DamagedFileError, match=r"t\.parquet is damaged"):
                read(path)

    def test_every_flipped_bit_of_a_page_is_detected(self, path):
        """Without checksums most of them silently change a value."""
        data = path.read_bytes()
        table = read_table(path)
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        for position in range(4, footer):
            corrupted = bytearray(data)
            corrupted[position] ^= 1
            path.write_bytes(corrupted)
            try:
                assert read_table(path) == table  # bits of the page header that are not used
            except DamagedFileError:
                continue

    def test_a_missing_file_is_not_damaged(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_table(tmp_path / "t.parquet")

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (PermissionError(13, "Permission denied"), PermissionError),
            (pa.ArrowMemoryError("malloc of size 64 failed"), MemoryError),
            (OSError(5, "Input/output error"), DamagedFileError),
        ],
    )
    def test_only_errors_of_the_file_count_as_damage(self, path, monkeypatch, error, raised):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(pq, "ParquetFile", fail)
        with pytest.raises(raised):
            read_table(path)

    def test_a_file_set_aside_is_in_no_table(self, path):
        write_table(pa.table({"number": [3]}), path.with_name("u.parquet"))

        assert set_aside(path) == path.with_name("_damaged-t.parquet")
        assert pq.read_table(path.parent).to_pydict() == {"number": [3]}


class TestTemporaryFiles:
    def test_only_files_of_ended_writers_are_removed(self, tmp_path):
        own = f".b.json.{os.getpid()}-8.new"  # written by a run in another container
        for name in (f".run.json.{UNUSED_PID}-8.new", own):
            (tmp_path / name).write_text("half")
        deep = tmp_path / "videos"
        deep.mkdir()
        kept = [
            *(tmp_path / name for name in ("run.json", ".lock", "x.new", ".bashrc.new")),
            tmp_path / f".c.json.{os.getppid()}-8.new",  # its writer is running
            deep / f".run.json.{UNUSED_PID}-8.new",
        ]
        for path in kept:
            path.write_text("complete")

        assert remove_temporary_files(tmp_path) == 2
        assert remove_temporary_files(tmp_path) == 0
        assert all(path.exists() for path in kept)

    def test_files_of_running_threads_are_kept(self, tmp_path):
        path = temporary_path(tmp_path / "a.json")
        path.write_text("half")

        assert remove_temporary_files(tmp_path) == 0
        assert path.exists()

    def test_a_missing_folder_has_none(self, tmp_path):
        assert remove_temporary_files(tmp_path / "nowhere") == 0

    def test_in_a_shared_folder_only_abandoned_files_are_removed(self, tmp_path):
        here = temporary_path(tmp_path / "a").name.split(".")[-2].split("-")[0]
        day_ago = time.time() - 25 * 3600
        files = {
            f".ended.{here}-{UNUSED_PID}-8.new": (True, None),
            f".running.{here}-{os.getppid()}-8.new": (False, day_ago),
            f".thread.{here}-{os.getpid()}-8.new": (False, day_ago),
            f".other host.00000000-{UNUSED_PID}-8.new": (False, None),
            f".other host, old.00000000-{os.getppid()}-8.new": (True, day_ago),
            f".version 1.{UNUSED_PID}-8.new": (False, None),
            f".version 1, old.{UNUSED_PID}-8.new": (True, day_ago),
            ".bashrc.new": (False, day_ago),
            "part-1.parquet": (False, day_ago),
        }
        for name, (_, modified) in files.items():
            (tmp_path / name).write_text("half")
            if modified:
                os.utime(tmp_path / name, (modified, modified))

        assert remove_temporary_files(tmp_path, shared=True) == 3
        assert {path.name for path in tmp_path.iterdir()} == {
            name for name, (removed, _) in files.items() if not removed
        }


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock `tmp_path/.lock` until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from pipeline.storage import file_lock\n"
        "with file_lock(Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / ".lock"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


class TestFileLock:
    def test_a_lock_is_released(self, tmp_path):
        for _ in range(2):
            with file_lock(tmp_path / "new" / ".lock", "results"):
                assert (tmp_path / "new" / ".lock").read_text() == f"process {os.getpid()}"

    def test_a_lock_is_released_after_an_error(self, tmp_path):
        with pytest.raises(ZeroDivisionError), file_lock(tmp_path / ".lock", "results"):
            raise ZeroDivisionError
        with file_lock(tmp_path / ".lock", "results"):
            pass

    def test_a_second_lock_in_this_process_fails(self, tmp_path):
        with file_lock(tmp_path / ".lock", "results"):
            with pytest.raises(OptionError, match="results is in use by process"):
                with file_lock(tmp_path / ".lock", "results"):
                    pytest.fail("locked twice")

    def test_a_lock_held_by_another_process_fails(self, tmp_path, holder):
        message = f"results folder OUT is in use by process {holder.pid}; wait for it \\(--wait\\)"
        with pytest.raises(OptionError, match=message):
            with file_lock(tmp_path / ".lock", "results folder OUT"):
                pytest.fail("locked twice")

    def test_a_killed_process_releases_its_lock(self, tmp_path, holder):
        holder.kill()
        holder.wait()

        with file_lock(tmp_path / ".lock", "results"):
            assert (tmp_path / ".lock").read_text() == f"process {os.getpid()}"

    def test_waiting_ends_when_the_lock_is_free(self, tmp_path, holder, caplog):
        release = threading.Timer(0.5, holder.kill)
        release.start()
        start = time.monotonic()

        with file_lock(tmp_path / ".lock", "results", wait=True):
            assert time.monotonic() - start > 0.4
        release.join()
        message = f"results is in use by process {holder.pid}; waiting for it"
        assert [record.getMessage() for record in caplog.records] == [message]

    def test_a_folder_that_cannot_be_created_fails(self, tmp_path):
        (tmp_path / "file").write_text("no folder")

        with pytest.raises(OptionError, match=r"results cannot be written: .*: .*/file"):
            with file_lock(tmp_path / "file" / ".lock", "results"):
                pytest.fail("locked without a folder")
