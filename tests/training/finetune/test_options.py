"""Options of fine-tuning."""

from __future__ import annotations

import pytest

from pipeline.errors import OptionError
from pipeline.temporal.options import TrainingOptions
from pipeline.training.finetune.options import TuningOptions


def test_fine_tuning_is_off_by_default():
    assert TuningOptions().blocks == 0


def test_other_options_are_those_of_the_training():
    training = TrainingOptions(seed=7, l1=0.1, epochs=30, mirror_grid=4, device="cpu")

    steps = TuningOptions(epochs=3, batch_size=2, learning_rate=0.5).steps(training)

    assert (steps.epochs, steps.batch_size, steps.learning_rate) == (3, 2, 0.5)
    assert (steps.shortest_crop, steps.drop_frames) == (0.8, 0.1)
    assert (steps.seed, steps.l1, steps.device) == (7, 0.1, "cpu")
    assert steps.mirror_grid == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks", -1, r"blocks must be 0 \(none\) or more, got -1"),
        ("epochs", 0, "epochs must be a number above 0, got 0"),
        ("learning_rate", 0.0, "learning_rate must be a number above 0"),
        ("frames", 0, "frames must be a number above 0"),
        ("chunk", -2, "chunk must be a number above 0, got -2"),
        ("smallest_crop", 1.5, r"smallest_crop must be in \(0, 1\], got 1.5"),
        ("shortest_crop", 0.0, r"shortest_crop must be in \(0, 1\], got 0.0"),
        ("colour", 1.0, r"colour must be in \[0, 1\), got 1.0"),
        ("drop_frames", -0.1, r"drop_frames must be in \[0, 1\), got -0.1"),
    ],
)
def test_invalid_values_fail(name, value, message):
    with pytest.raises(OptionError, match=message):
        TuningOptions(**{name: value})
