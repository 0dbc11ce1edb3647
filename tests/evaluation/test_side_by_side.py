"""Trainings side by side: results do not depend on the number of processes; errors; no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import MachineError, OptionError
from pipeline.evaluation import predictions, side_by_side
from pipeline.evaluation.cross_validation import group_folds
from pipeline.evaluation.predictions import cross_validate
from pipeline.evaluation.side_by_side import TrainingProcess, run_trainings
from pipeline.temporal.batching import Examples
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from tests.temporal.synthetic_clips import rising_and_falling

ROOT = Path(__file__).resolve().parents[2]


def where(shared, task):
    """A training that takes longer the earlier it comes."""
    time.sleep(0.02 * (5 - task))
    return shared + task, os.getpid(), torch.get_num_threads()


def fail_or_die(shared, task):
    """A training that fails, or whose process is killed."""
    if task == "fail":
        raise OptionError("training diverged")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def always_processes(monkeypatch):
    monkeypatch.setattr(side_by_side, "START_SECONDS", -1.0)


def test_results_come_in_the_order_of_the_tasks(always_processes):
    results = list(run_trainings(where, 10, range(6), 2))

    assert [value for value, _, _ in results] == [10, 11, 12, 13, 14, 15]
    assert results[0][1] == os.getpid()
    assert len({pid for _, pid, _ in results[1:]} - {os.getpid()}) == 2
    assert {threads for _, _, threads in results} == {1}


@pytest.mark.parametrize("max_parallel", [1, 4])
def test_short_trainings_need_no_process(max_parallel):
    results = list(run_trainings(where, 0, range(6), max_parallel))

    assert {pid for _, pid, _ in results} == {os.getpid()}


def test_errors_are_raised_and_a_killed_process_is_reported():
    process = TrainingProcess()
    process.send((fail_or_die, None))

    process.send("fail")
    with pytest.raises(OptionError, match="training diverged"):
        process.receive()
    process.send("die")
    with pytest.raises(MachineError, match="training process was ended by signal 9"):
        process.receive()
    process.kill()


def test_a_process_ends_with_the_one_that_started_it():
    program = """
import time
from pipeline.evaluation.side_by_side import TrainingProcess
from tests.evaluation.test_side_by_side import where
process = TrainingProcess()
process.send((where, 0))
process.send(4)
print(process.receive()[1], flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_cross_validation_does_not_depend_on_the_number_of_processes(always_processes, monkeypatch):
    examples = Examples(tuple(rising_and_falling(24)), ("falls", "rises"))
    labels = [examples.labels[item.label] for item in examples.items]
    folds = group_folds([item.group for item in examples.items], labels, 0)
    temporal = TemporalOptions(cell="gru", size=8, dropout=0.2)
    options = TrainingOptions(epochs=3, device="cpu")
    found = []
    for count in (1, 2):
        monkeypatch.setattr(predictions, "parallel_trainings", lambda options, n=count: n)
        found.append(list(cross_validate(examples, folds, temporal, options)))

    for one, two in zip(*found, strict=True):
        assert (one.fold.name, one.seed, one.accuracy) == (two.fold.name, two.seed, two.accuracy)
        assert one.trained.history == two.trained.history
        for a, b in zip(one.predictions, two.predictions, strict=True):
            np.testing.assert_array_equal(a.logits, b.logits)
        weights = one.trained.model.state_dict(), two.trained.model.state_dict()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
