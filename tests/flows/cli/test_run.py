"""The summary that `clipline run` prints."""

from __future__ import annotations

import pytest

from flows.cli import console
from flows.cli.run import print_timings
from flows.server import launch

SUMMARY = {
    "counts": {"frames_encoded": 500, "bytes_pictures": 3 << 20, "bytes_features": 1 << 19},
    "timings_seconds": {
        "run": 10.0,
        "stages": {"decode": 4.0, "encode": 7.5, "recognize": 1.0, "write": 0.5},
        "startup": {"imports": 1.25, "engine": 0.5},
        "engine_busy": 7.0,
        "engine_idle": 2.0,
    },
}


@pytest.fixture
def lines(monkeypatch):
    """Print timings, and return the cells of the table by the first one of each row."""
    printed = []
    monkeypatch.setattr(console, "print_line", lambda text="": None)
    monkeypatch.setattr(console, "print_table", lambda head, rows: printed.extend(rows))
    monkeypatch.setattr(launch, "process_age_seconds", lambda: 15.0)

    def show(summary):
        print_timings(summary)
        return {what: (seconds, note) for what, seconds, note in printed}

    return show


def test_each_part_has_its_seconds_and_a_note(lines):
    assert lines(SUMMARY) == {
        "start: imports": ("1.25", ""),
        "start: engine": ("0.50", ""),
        "run: from the first shard to the last": ("10.00", "50 frames/s"),
        "run: decode": ("4.00", "3.0 MiB of output"),
        "run: encode": ("7.50", "0.5 MiB of output"),
        "run: recognize": ("1.00", ""),
        "run: write": ("0.50", ""),
        "run: engine computes": ("7.00", "70% of the run"),
        "run: engine waits": ("2.00", "20% of the run"),
        "whole command": ("15.00", ""),
    }


def test_a_run_without_frames_has_no_rates(lines):
    nothing = {**SUMMARY["timings_seconds"], "run": 0.0, "engine_busy": 0.0, "engine_idle": 0.0}

    shown = lines({**SUMMARY, "timings_seconds": nothing})

    assert shown["run: from the first shard to the last"] == ("0.00", "")
    assert shown["run: engine waits"] == ("0.00", "")
