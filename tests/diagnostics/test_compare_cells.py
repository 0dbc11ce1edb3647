"""Cells before and after training: accuracy, memory, and the order that theory predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.diagnostics.compare_cells import (
    COMPARED,
    causal_options,
    diagnose_cell,
    measure,
    untrained_model,
)
from pipeline.diagnostics.copy_task import LABELS, make_copy_task
from pipeline.temporal.options import TemporalOptions, TrainingOptions
from pipeline.temporal.trainer import predict
from tests.diagnostics.synthetic_sequences import example, make, noise

TRAINING = TrainingOptions(
    epochs=8, learning_rate=1e-2, label_smoothing=0, validation=0, device="cpu"
)
LAG = 19
GATED = ("lstm", "gru", "mingru")


def test_accuracy_is_on_the_measured_sequences():
    model = make("gru")
    clips = [example(noise(5, seed=n), label=n % 2) for n in range(8)]
    predicted = predict(model, clips).argmax(1)
    correct = [
        replace(clip, label=int(label)) for clip, label in zip(clips, predicted, strict=True)
    ]
    empty = replace(correct[0], label=1 - correct[0].label, mask=np.zeros(5, np.bool_))

    assert measure(model, correct, "start").accuracy == 1
    assert measure(model, [*correct, empty], "start").accuracy == 1
    wrong = [replace(clip, label=1 - clip.label) for clip in correct[:2]]
    assert measure(model, [*wrong, *correct[2:]], "start").accuracy == 0.75


class TestCompared:
    def test_all_models_are_causal(self):
        given = TemporalOptions(cell="gru", size=6, heads=4, bidirectional=True, pooling="mean")
        for cell in COMPARED:
            options = causal_options(given, cell)

            assert (options.cell, options.pooling, options.bidirectional) == (cell, "last", False)
            assert options.causal
            assert options.size % options.heads == 0

    def test_untrained_cells_have_the_order_that_theory_predicts(self):
        """MinGRU with half-open gates halves gradients; identity and attention keep them."""
        examples = make_copy_task(32, 40, seed=1)
        memory = {}
        for cell in COMPARED:
            options = causal_options(TemporalOptions(size=32), cell)
            model = untrained_model(examples, LABELS, options, seed=0)
            memory[cell] = measure(model, examples, "start").gradients.relative[-1]

        assert memory["mingru"] < 1e-6
        assert memory["gru"] < 1e-4
        assert memory["rnn_tanh"] < 1e-3
        assert memory["lstm"] > 10 * memory["gru"]  # its forget gate is initially open
        assert memory["transformer"] > 1e-3
        assert memory["rnn_relu"] > 1e-2


LONG_LAG = 39


@pytest.fixture(scope="module")
def diagnoses():
    """All cells, trained with lags up to 39 and measured at 39."""
    examples = make_copy_task(1024, LONG_LAG + 1)
    test = make_copy_task(128, LONG_LAG + 1, lag=LONG_LAG, seed=1)
    training = TrainingOptions(
        epochs=12, learning_rate=5e-3, label_smoothing=0, validation=0, device="cpu"
    )
    temporal = TemporalOptions(size=32)
    return {
        cell: diagnose_cell(cell, examples, LABELS, temporal, training, test=test)
        for cell in COMPARED
    }


@pytest.mark.slow
class TestKnownLag:
    """A label is in one frame and must be predicted 39 frames later."""

    def test_the_plain_cell_does_not_learn_a_long_lag(self, diagnoses):
        trained = diagnoses["rnn_tanh"].measurements[1].gradients

        assert trained.effective_memory < 6
        assert trained.relative[LONG_LAG] < 1e-3
        assert diagnoses["rnn_tanh"].history[-1].accuracy < 0.75

    @pytest.mark.parametrize("cell", [*GATED, "transformer"])
    def test_gated_cells_and_attention_depend_on_the_labelled_frame(self, diagnoses, cell):
        trained = diagnoses[cell].measurements[1].gradients

        assert trained.norms.argmax() == LONG_LAG
        assert trained.effective_memory > 15
        assert diagnoses[cell].history[-1].accuracy > 0.9

    def test_the_identity_preserves_the_gradient(self, diagnoses):
        for at in diagnoses["rnn_relu"].measurements:
            assert at.gradients.relative[LONG_LAG] > 1e-2


def test_training_increases_the_memory_of_a_gated_cell():
    """A faster version of the tests above, with a lag of 19."""
    examples = make_copy_task(512, LAG + 1)
    test = make_copy_task(64, LAG + 1, lag=LAG, seed=1)
    temporal = TemporalOptions(size=24)
    epochs = []
    found = diagnose_cell(
        *("gru", examples, LABELS, temporal, TRAINING),
        test=test,
        on_epoch=lambda cell, epoch: epochs.append((cell, epoch.number)),
    )
    start, trained = (at.gradients for at in found.measurements)

    assert [at.stage for at in found.measurements] == ["start", "trained"]
    assert start.relative[LAG] < 1e-2
    assert trained.norms.argmax() == LAG
    assert trained.effective_memory > 2 * start.effective_memory
    assert epochs == [("gru", number) for number in range(1, 9)]
    assert all(epoch.gradient_norm > 0 for epoch in found.history)
