"""The record of a run: where its time went."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from pipeline.encode.engine_lock import EngineLock
from pipeline.progress import RunProgress
from pipeline.run.run_record import timings


@pytest.fixture
def session():
    return SimpleNamespace(
        engine_lock=EngineLock(), pool=SimpleNamespace(start_seconds=0.5), options=None
    )


def test_an_idle_engine_is_one_that_waits_between_its_batches(session, monkeypatch):
    clock = SimpleNamespace(now=200.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    progress = RunProgress()
    progress.begin()
    for start, end in ((203.0, 205.0), (206.0, 210.0)):
        clock.now = start
        with session.engine_lock.busy():
            clock.now = end
    clock.now = 300.0

    found = timings(session, progress)

    assert (found["engine_busy"], found["engine_idle"], found["run"]) == (6, 4, 100)


def test_an_engine_that_was_never_used_was_never_idle(session):
    assert timings(session, RunProgress())["engine_idle"] == 0


def test_stages_and_the_start_are_reported(session):
    progress = RunProgress(startup={"networks": 1.0}, seconds={"decode": 2.0})

    found = timings(session, progress)

    assert found["stages"] == {"decode": 2.0}
    assert found["startup"] == {"networks": 1.0, "decode processes": 0.5}
