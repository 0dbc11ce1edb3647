"""Trainings are measured on idle CPUs and beside a busy process."""

from __future__ import annotations

from pipeline.temporal.options import TrainingOptions
from tests.benchmarks import training
from tests.benchmarks.training import draw_examples, measure_training, time_cross_validation


def test_trainings_are_measured(monkeypatch):
    monkeypatch.setattr(training, "STEP_FRAMES", 64)
    examples = draw_examples(2)

    found = measure_training(
        lambda: time_cross_validation(examples, TrainingOptions(epochs=1, device="cpu"), 1)
    )

    assert found["idle_seconds"] > 0
    assert found["busy_to_idle"] > 0
    assert set(found["ms_per_step_of_64_frames"]) == {"lstm", "gru"}
    assert found["gru_to_lstm"] > 0
