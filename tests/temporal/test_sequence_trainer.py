"""Training on sequences with a label for each frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import OptionError
from pipeline.temporal import (
    TemporalModel,
    TemporalOptions,
    TrainingOptions,
    fit_sequences,
    predict_sequences,
)
from pipeline.temporal.sequence_loss import SequenceLoss
from pipeline.temporal.sequence_steps import collate_steps, make_steps
from pipeline.temporal.sequences import IGNORED
from tests.temporal.synthetic_sequences import NUM_LABELS, make_sequence, noisy_segments

CAUSAL = TemporalOptions(cell="tcn", layers=4, size=16, layer_norm=False, refine=1, refine_layers=4)
MODEL = TemporalOptions(cell="lstm", size=16, bidirectional=True, layer_norm=False)
OPTIONS = TrainingOptions(
    epochs=20,
    batch_size=4,
    learning_rate=1e-2,
    smoothing=0.15,
    stretch=1.2,
    shortest_crop=0.7,
    drop_frames=0.1,
    mix=0.2,
    device="cpu",
)


def accuracy(result, sequences):
    logits = np.concatenate(predict_sequences(result.model, sequences))
    targets = np.concatenate([sequence.targets for sequence in sequences])
    if targets.ndim == 2:
        return ((logits > 0) == targets).mean()
    return (logits.argmax(1) == targets).mean()


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    ("model", "gain"), [(MODEL, 0.12), (CAUSAL, 0.05)], ids=["bidirectional", "causal"]
)
def test_neighbouring_frames_tell_the_label_of_a_noisy_frame(model, gain, multi_label):
    sequences = noisy_segments(24, multi_label=multi_label)
    held_out = noisy_segments(8, multi_label=multi_label, seed=1)
    result = fit_sequences(sequences[:16], NUM_LABELS, model, OPTIONS, validation=sequences[16:])
    single_frames = accuracy_of_single_frames(held_out)

    assert accuracy(result, held_out) >= single_frames + gain
    assert (result.thresholds is not None) == multi_label
    assert result.temperature != 1


def accuracy_of_single_frames(sequences):
    features = np.concatenate([sequence.features for sequence in sequences])
    targets = np.concatenate([sequence.targets for sequence in sequences])
    guess = features.argmax(1)
    if targets.ndim == 2:
        return (np.eye(NUM_LABELS)[guess].astype(bool) == targets).mean()
    return (guess == targets).mean()


def test_the_same_seed_gives_equal_weights():
    options = replace(OPTIONS, epochs=2)
    results = [fit_sequences(noisy_segments(6), NUM_LABELS, MODEL, options) for _ in range(2)]
    first, second = (result.model.state_dict() for result in results)

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sequences_without_any_label_fail():
    sequence = make_sequence([IGNORED] * 3, np.zeros((3, 2)))
    with pytest.raises(OptionError, match="no frame of the sequences has a label"):
        fit_sequences([sequence], 2, MODEL, OPTIONS)


def loss_of(model, options, sequences, weights=None):
    batch = collate_steps([make_steps(model, sequence) for sequence in sequences])
    weights = torch.ones(NUM_LABELS) if weights is None else weights
    model.zero_grad()
    return SequenceLoss(options, weights).backward(model, batch)


def test_the_stride_follows_from_the_frame_rate():
    """Frames at 8 frames/s."""
    for rate, stride in ((0, 1), (100, 1), (4, 2), (1.9, 4)):
        options = replace(OPTIONS, epochs=1, steps_per_second=rate)
        result = fit_sequences(noisy_segments(2), NUM_LABELS, MODEL, options)
        (logits,) = predict_sequences(result.model, noisy_segments(1))

        assert result.model.options.stride == stride
        assert len(logits) == len(noisy_segments(1)[0].features)


class TestLoss:
    @pytest.fixture(params=[1, 3], ids=["every frame", "blocks"])
    def model(self, request):
        torch.manual_seed(0)
        options = TemporalOptions(cell="lstm", size=8, refine=1, refine_layers=3)
        return TemporalModel(NUM_LABELS, NUM_LABELS, replace(options, stride=request.param)).eval()

    def test_frames_without_target_do_not_count(self, model):
        plain = TrainingOptions(label_smoothing=0)
        (sequence,) = noisy_segments(1)
        kept = slice(0, 20)
        cut = make_sequence(sequence.targets[kept], sequence.features[kept])
        ignored = sequence.targets.copy()
        ignored[20:] = IGNORED

        expected, _ = loss_of(model, plain, [cut])
        found, _ = loss_of(model, plain, [make_sequence(ignored, sequence.features)])

        assert found == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("multi_label", [False, True])
    def test_chunks_with_a_carried_state_add_up_to_the_whole(self, model, multi_label):
        sequences = noisy_segments(3, multi_label=multi_label)
        whole, right = loss_of(model, TrainingOptions(), sequences)
        chunks, also_right = loss_of(model, TrainingOptions(unroll=9), sequences)

        assert chunks == pytest.approx(whole, abs=1e-5)
        assert also_right == pytest.approx(right)

    def test_smoothing_costs_changes_of_probabilities(self, model):
        (sequence,) = noisy_segments(1)
        constant = make_sequence(sequence.targets, np.zeros_like(sequence.features))
        costs = []
        for one in (sequence, constant):
            plain, smooth = (
                loss_of(model, TrainingOptions(smoothing=weight), [one])[0] for weight in (0, 1)
            )
            costs.append(smooth - plain)

        assert costs[0] > 10 * costs[1]
