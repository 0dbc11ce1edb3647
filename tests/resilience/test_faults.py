"""Faults in every stage of a run: transient ones are retried, permanent ones are reported."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from pipeline.results.tables import load, read_run
from tests.resilience.commands import ROOT, Commands
from tests.videos import write_video

pytestmark = pytest.mark.slow  # three whole commands over seventeen faults

READERS = {
    "reader-hangs-once.mp4": ("ok", "no frame for 3 s"),
    "reader-exits-once.mp4": ("ok", "ended with code 3"),
    "reader-segfaults-once.mp4": ("ok", "ended by signal 11"),
    "reader-throws-once.mp4": ("ok", "unexpected error"),
    "reader-hangs-always.mp4": ("decode_timeout", "no frame for 3 s"),
    "reader-exits-always.mp4": ("decode_crash", "ended with code 3"),
    "reader-segfaults-always.mp4": ("decode_crash", "ended by signal 11"),
    "reader-starves-always.mp4": ("out_of_memory", "more memory than allowed"),
    "reader-throws-always.mp4": ("undecodable", "unexpected error"),
}
"""Videos with faults in decode processes: status, and text in the row."""
FAIL_ONCE = [f"{stage}-fails-once.mp4" for stage in ("decode", "encode", "recognize", "write")]
FAIL_ALWAYS = ["encode-fails-always.mp4", "write-full-always.mp4"]
FAIL_PERMANENTLY = ["recognize-wrong-always.mp4"]
UNDAMAGED = ["sound.mp4"]
NAMES = [*READERS, *FAIL_ONCE, *FAIL_ALWAYS, *FAIL_PERMANENTLY, *UNDAMAGED]
RETRY_DELAYS_QUERY = """
    select task_run_id, timestamp,
           86400 * (julianday(json_extract(state_details, '$.scheduled_time'))
                    - julianday(timestamp)) as seconds
    from task_run_state where name = 'AwaitingRetry' order by timestamp
"""
"""Reads the delays before retries from the run history."""
SITE = ROOT / "tests" / "resilience" / "faults"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, tiny_recognizer):
    """Results of a run with all faults, of the same command again, and of `retry`."""
    folder = tmp_path_factory.mktemp("faults")
    commands = Commands(folder / "home")
    for name in ("videos", "memory", "home"):
        (folder / name).mkdir()
    content = write_video(folder / "a.mp4", 12, size=(128, 64)).read_bytes()
    for number, name in enumerate(NAMES):
        (folder / "videos" / name).write_bytes(
            content + bytes([number])
        )  # different content: no copies
    command = ("run", folder / "videos", "-o", folder / "out", "--recognizer", tiny_recognizer)
    # precision auto would decode some of the videos beforehand, and use up their faults
    command += ("--frame-timeout", 3, "--workers", 2, "--precision", "float32")
    faults = {"FAULTS": str(folder / "memory"), "PYTHONPATH": str(SITE)}
    try:
        first = commands(*command, module="tests.resilience.faulty", **faults)
        seen = [CommandResult(folder, first)]
        seen.append(CommandResult(folder, commands(*command)))
        seen.append(CommandResult(folder, commands("retry", folder / "out")))
        yield seen
        assert commands.left() == {}
    finally:
        commands.close()


class CommandResult:
    """Exit code, results and run history of one command."""

    def __init__(self, folder: Path, ended) -> None:
        self.ended = ended
        self.run = read_run(folder / "out")
        self.videos = load(folder / "out", "videos")
        self.videos.index = self.videos.video.map(os.path.basename)
        history = folder / "home" / ".local/state/clipline/prefect/prefect.db"
        with closing(sqlite3.connect(history)) as database:
            runs = pd.read_sql(
                "select id, name, state_type, run_count, flow_run_id from task_run", database
            )
            waits = pd.read_sql(RETRY_DELAYS_QUERY, database)
        of_this = runs.flow_run_id == self.run["flow_run_id"]
        self.tasks = runs[of_this].assign(name=runs.name.str.rsplit("-", n=1).str[0])
        self.pauses = [list(waited.seconds) for _, waited in waits.groupby("task_run_id")]
        """Seconds before each retry, for each task that was retried."""


class TestFaults:
    @pytest.mark.parametrize("name", READERS)
    def test_a_failing_decode_process_affects_one_video(self, faulty, name):
        status, message = READERS[name]
        row = faulty[0].videos.loc[name]

        assert row.status == status
        assert message in (row.attempts if status == "ok" else row.error)

    def test_stages_that_fail_once_are_retried(self, faulty):
        rows = faulty[0].videos

        assert set(rows.loc[[*FAIL_ONCE, *UNDAMAGED]].status) == {"ok"}
        assert (rows.loc[[*FAIL_ONCE, *UNDAMAGED]].frames_decoded == 12).all()

    def test_stages_that_always_fail_are_reported_and_write_no_row(self, faulty):
        first = faulty[0]

        assert first.ended.code == 1
        assert "3 shards failed" in first.ended.err
        assert "The same command tries them again" in first.ended.err
        assert "Traceback" not in first.ended.err
        assert len(first.run["failures"]) == 3
        assert not set(first.videos.index) & {*FAIL_ALWAYS, *FAIL_PERMANENTLY}

    def test_retries_are_in_the_run_history(self, faulty):
        """A stage that fails once ran twice, one that always fails ran 1 + 3 times."""
        tasks = faulty[0].tasks

        often = tasks[tasks.run_count > 1].groupby("name").run_count.apply(sorted).to_dict()

        assert often == {"decode": [2], "encode": [2, 4], "recognize": [2], "write": [2, 4]}

    def test_delays_before_retries_grow_and_are_random(self, faulty):
        """Otherwise tasks that failed together would be retried together."""
        long = [pauses for pauses in faulty[0].pauses if len(pauses) == 3]

        assert len(long) == len(FAIL_ALWAYS)
        for pauses in long:
            for base, pause in zip((1, 2, 4), pauses, strict=True):
                assert 0.5 * base - 0.1 < pause < 1.5 * base + 0.1
        assert any(abs(a - b) > 1e-3 for a, b in zip(*long, strict=True))

    def test_permanent_errors_are_not_retried(self, faulty):
        tasks = faulty[0].tasks
        failed = tasks[(tasks.state_type == "FAILED") & (tasks.name == "recognize")]

        assert failed.run_count.tolist() == [1]

    def test_the_same_command_processes_what_failed(self, faulty):
        again = faulty[1]

        assert again.run["failures"] == []
        assert again.run["counts"]["videos_done"] == len(FAIL_ALWAYS) + len(FAIL_PERMANENTLY)
        assert again.run["counts"]["videos_skipped"] == len(NAMES) - 3
        assert sorted(again.videos.index) == sorted(NAMES)
        assert set(again.videos.loc[[*FAIL_ALWAYS, *FAIL_PERMANENTLY]].status) == {"ok"}

    def test_retry_processes_only_failed_videos(self, faulty):
        bad = [name for name, (status, _) in READERS.items() if status != "ok"]
        before, after = faulty[1], faulty[2]

        assert before.ended.code == 3
        assert after.ended.code == 0
        assert after.run["counts"]["videos_done"] == len(bad)
        assert set(after.videos.status) == {"ok"}
