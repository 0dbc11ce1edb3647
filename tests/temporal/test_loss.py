"""What training makes small, and that long clips are learned piece by piece."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.temporal.batching import Batch
from pipeline.temporal.loss import Objective, absolute_sum
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions

PLAIN = TrainingOptions(label_smoothing=0)


def make_model(cell="gru", **values) -> TemporalModel:
    torch.manual_seed(0)
    return TemporalModel(3, 2, TemporalOptions(cell=cell, size=4, **values))


def make_batch(length=12, lengths=(12, 7)) -> Batch:
    mask = torch.arange(length) < torch.tensor(lengths).unsqueeze(1)
    return Batch(torch.randn(len(lengths), length, 3), mask, torch.tensor([0, 1]))


def losses(model, batch, options=PLAIN, weights=(1.0, 1.0)):
    return list(Objective(options, torch.tensor(weights)).losses(model, batch))


def gradients(model, batch, options):
    model.zero_grad()
    for loss, _ in Objective(options, torch.ones(2)).losses(model, batch):
        loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_it_is_the_cross_entropy_of_clips():
    model, batch = make_model(), make_batch()

    ((loss, said),) = losses(model, batch)

    logits = model(batch.x, batch.mask).clips
    assert loss.item() == pytest.approx(functional.cross_entropy(logits, batch.labels).item())
    assert torch.equal(said, logits.argmax(1))


def test_labels_have_weights():
    model, batch = make_model(), make_batch()

    ((loss, _),) = losses(model, batch, weights=(3.0, 1.0))

    logits = model(batch.x, batch.mask).clips
    wanted = functional.cross_entropy(logits, batch.labels, weight=torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx(wanted.item())


def test_labels_are_smoothed():
    model, batch = make_model(), make_batch()

    ((loss, _),) = losses(model, batch, TrainingOptions(label_smoothing=0.2))

    logits = model(batch.x, batch.mask).clips
    wanted = functional.cross_entropy(logits, batch.labels, label_smoothing=0.2)
    assert loss.item() == pytest.approx(wanted.item())


def test_frames_that_count_may_have_a_say():
    model, batch = make_model(), make_batch()

    ((plain, _),) = losses(model, batch)
    ((loss, _),) = losses(model, batch, TrainingOptions(label_smoothing=0, frame_weight=0.5))

    frames = model(batch.x, batch.mask).frames
    each = functional.cross_entropy(
        frames.transpose(1, 2), batch.labels.unsqueeze(1).expand(-1, 12), reduction="none"
    )
    of_frames = torch.stack([each[0].mean(), each[1, :7].mean()]).mean()
    assert loss.item() == pytest.approx((plain + 0.5 * of_frames).item())


def test_absolute_weights_may_have_a_price():
    model = make_model()

    (_, (price, _)) = losses(model, make_batch(), TrainingOptions(l1=0.1))

    matrices = [p for p in model.parameters() if p.ndim > 1]
    assert price.item() == pytest.approx(0.1 * sum(p.abs().sum().item() for p in matrices))
    assert price.item() == pytest.approx(0.1 * absolute_sum(model).item())


class TestLongClips:
    def test_pieces_are_streamed(self):
        """The last piece ends where the whole ends: its labels are those of the whole clip."""
        model, batch = make_model(), make_batch(lengths=(12, 12))

        pieces = losses(model, batch, TrainingOptions(label_smoothing=0, unroll=5))

        assert len(pieces) == 3
        assert torch.equal(pieces[-1][1], model(batch.x, batch.mask).clips.argmax(1))
        assert [round(loss.item(), 6) for loss, _ in pieces] == [
            round(share * self.surprise(model, batch, stop), 6)
            for share, stop in ((5 / 12, 5), (5 / 12, 10), (2 / 12, 12))
        ]

    @staticmethod
    def surprise(model, batch, stop):
        logits = model(batch.x[:, :stop], batch.mask[:, :stop]).clips
        return functional.cross_entropy(logits, batch.labels).item()

    def test_a_piece_as_long_as_the_clip_is_the_clip(self):
        model, batch = make_model(), make_batch()
        whole = gradients(model, batch, TrainingOptions(unroll=100))

        assert torch.equal(gradients(model, batch, TrainingOptions(unroll=12)), whole)

    def test_gradients_do_not_flow_from_piece_to_piece(self):
        model = make_model("rnn_tanh")
        batch = make_batch(lengths=(12, 12))
        batch.x.requires_grad_()
        (*_, (last, _)) = losses(model, batch, TrainingOptions(unroll=4))

        last.backward()

        reached = batch.x.grad.abs().sum((0, 2)) > 0
        assert reached.tolist() == [False] * 8 + [True] * 4

    def test_a_clip_that_has_ended_is_not_learned_again(self):
        """Its share of the later pieces is nothing."""
        model, batch = make_model(), make_batch(lengths=(12, 4))

        pieces = losses(model, batch, TrainingOptions(label_smoothing=0, unroll=4))

        alone = Batch(batch.x[:1], batch.mask[:1], batch.labels[:1])
        same = losses(model, alone, TrainingOptions(label_smoothing=0, unroll=4))
        assert pieces[2][0].item() == pytest.approx(same[2][0].item() / 2)

    def test_models_that_look_ahead_learn_pieces_as_clips(self):
        model, batch = make_model(bidirectional=True), make_batch(lengths=(12, 12))

        pieces = losses(model, batch, TrainingOptions(label_smoothing=0, unroll=6))

        logits = model(batch.x[:, 6:], batch.mask[:, 6:]).clips
        wanted = 0.5 * functional.cross_entropy(logits, batch.labels)
        assert pieces[1][0].item() == pytest.approx(wanted.item())


def test_models_compute_in_float32_whatever_the_precision():
    """It is that of convolutions: temporal models are too small to win by it."""
    model, batch = make_model(), make_batch()

    ((plain, _),) = losses(model, batch)
    ((same, _),) = losses(model, batch, TrainingOptions(label_smoothing=0, precision="bfloat16"))

    assert same.item() == plain.item()
