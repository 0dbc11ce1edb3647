"""Faults in every stage of a real run: what passes is retried, what does not is told, no more."""

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
    "reader-throws-once.mp4": ("ok", "nobody thought of this"),
    "reader-hangs-always.mp4": ("decode_timeout", "no frame for 3 s"),
    "reader-exits-always.mp4": ("decode_crash", "ended with code 3"),
    "reader-segfaults-always.mp4": ("decode_crash", "ended by signal 11"),
    "reader-starves-always.mp4": ("out_of_memory", "more memory than allowed"),
    "reader-throws-always.mp4": ("undecodable", "nobody thought of this"),
}
"""Videos over which decode processes stumble: status, and what the row says."""
PASSING = [f"{stage}-fails-once.mp4" for stage in ("decode", "encode", "recognize", "write")]
LASTING = ["encode-fails-always.mp4", "write-full-always.mp4"]
PERMANENT = ["recognize-wrong-always.mp4"]
SOUND = ["sound.mp4"]
NAMES = [*READERS, *PASSING, *LASTING, *PERMANENT, *SOUND]
WAITS = """
    select task_run_id, timestamp,
           86400 * (julianday(json_extract(state_details, '$.scheduled_time'))
                    - julianday(timestamp)) as seconds
    from task_run_state where name = 'AwaitingRetry' order by timestamp
"""
"""The run history of pauses before further attempts."""
SITE = ROOT / "tests" / "resilience" / "faults"


@pytest.fixture(scope="module")
def faulty(tmp_path_factory, tiny_recognizer):
    """Results of one run in which everything goes wrong, of the same again, and of a retry."""
    folder = tmp_path_factory.mktemp("faults")
    commands = Commands(folder / "home")
    for name in ("videos", "memory", "home"):
        (folder / name).mkdir()
    content = write_video(folder / "a.mp4", 12, size=(128, 64)).read_bytes()
    for number, name in enumerate(NAMES):
        (folder / "videos" / name).write_bytes(content + bytes([number]))  # else they were copies
    command = ("run", folder / "videos", "-o", folder / "out", "--recognizer", tiny_recognizer)
    # precision auto would decode some of the videos beforehand, and use up their faults
    command += ("--frame-timeout", 3, "--workers", 2, "--precision", "float32")
    faults = {"FAULTS": str(folder / "memory"), "PYTHONPATH": str(SITE)}
    try:
        first = commands(*command, module="tests.resilience.faulty", **faults)
        seen = [Seen(folder, first)]
        seen.append(Seen(folder, commands(*command)))
        seen.append(Seen(folder, commands("retry", folder / "out")))
        yield seen
        assert commands.left() == {}
    finally:
        commands.close()


class Seen:
    """What one command left."""

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
            waits = pd.read_sql(WAITS, database)
        of_this = runs.flow_run_id == self.run["flow_run_id"]
        self.tasks = runs[of_this].assign(name=runs.name.str.rsplit("-", n=1).str[0])
        self.pauses = [list(waited.seconds) for _, waited in waits.groupby("task_run_id")]
        """Seconds before each further attempt, of each task that was tried again."""


class TestFaults:
    @pytest.mark.parametrize("name", READERS)
    def test_a_decode_process_that_fails_is_a_verdict_on_one_video(self, faulty, name):
        status, words = READERS[name]
        row = faulty[0].videos.loc[name]

        assert row.status == status
        assert words in (row.attempts if status == "ok" else row.error)

    def test_what_fails_once_is_done_all_the_same(self, faulty):
        rows = faulty[0].videos

        assert set(rows.loc[[*PASSING, *SOUND]].status) == {"ok"}
        assert (rows.loc[[*PASSING, *SOUND]].frames_decoded == 12).all()

    def test_what_fails_always_is_reported_and_has_no_row_yet(self, faulty):
        first = faulty[0]

        assert first.ended.code == 1
        assert "3 shards failed" in first.ended.err
        assert "The same command tries them again" in first.ended.err
        assert "Traceback" not in first.ended.err
        assert len(first.run["failures"]) == 3
        assert not set(first.videos.index) & {*LASTING, *PERMANENT}

    def test_retries_are_in_the_run_history(self, faulty):
        """A stage that fails once ran twice, one that fails always ran 1 + 3 times."""
        tasks = faulty[0].tasks

        often = tasks[tasks.run_count > 1].groupby("name").run_count.apply(sorted).to_dict()

        assert often == {"decode": [2], "encode": [2, 4], "recognize": [2], "write": [2, 4]}

    def test_pauses_before_retries_grow_and_are_a_matter_of_chance(self, faulty):
        """Else all that failed together would fail together again."""
        long = [pauses for pauses in faulty[0].pauses if len(pauses) == 3]

        assert len(long) == len(LASTING)
        for pauses in long:
            for base, pause in zip((1, 2, 4), pauses, strict=True):
                assert 0.5 * base - 0.1 < pause < 1.5 * base + 0.1
        assert any(abs(a - b) > 1e-3 for a, b in zip(*long, strict=True))

    def test_permanent_errors_are_not_retried(self, faulty):
        tasks = faulty[0].tasks
        failed = tasks[(tasks.state_type == "FAILED") & (tasks.name == "recognize")]

        assert failed.run_count.tolist() == [1]

    def test_the_same_command_does_what_had_failed(self, faulty):
        again = faulty[1]

        assert again.run["failures"] == []
        assert again.run["counts"]["videos_done"] == len(LASTING) + len(PERMANENT)
        assert again.run["counts"]["videos_skipped"] == len(NAMES) - 3
        assert sorted(again.videos.index) == sorted(NAMES)
        assert set(again.videos.loc[[*LASTING, *PERMANENT]].status) == {"ok"}

    def test_retry_does_the_bad_videos_again_and_only_them(self, faulty):
        bad = [name for name, (status, _) in READERS.items() if status != "ok"]
        before, after = faulty[1], faulty[2]

        assert before.ended.code == 3
        assert after.ended.code == 0
        assert after.run["counts"]["videos_done"] == len(bad)
        assert set(after.videos.status) == {"ok"}
