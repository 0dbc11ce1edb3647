"""The training loss, and truncated backpropagation of long clips."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pipeline.temporal.batching import Batch
from pipeline.temporal.loss import TrainingLoss, l1_norm
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions, TrainingOptions

PLAIN = TrainingOptions(label_smoothing=0)


def make_model(cell="gru", **values) -> TemporalModel:
    torch.manual_seed(0)
    return TemporalModel(3, 2, TemporalOptions(cell=cell, size=4, **values))


def make_batch(length=12, lengths=(12, 7)) -> Batch:
    mask = torch.arange(length) < torch.tensor(lengths).unsqueeze(1)
    return Batch(torch.randn(len(lengths), length, 3), mask, torch.tensor([0, 1]))


def loss_of(model, batch, options=PLAIN, weights=(1.0, 1.0)):
    return TrainingLoss(options, torch.tensor(weights)).backward(model, batch)[0]


def correct_of(model, batch, options=PLAIN):
    return TrainingLoss(options, torch.ones(2)).backward(model, batch)[1]


def gradients(model, batch, options):
    model.zero_grad()
    TrainingLoss(options, torch.ones(2)).backward(model, batch)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_it_is_the_cross_entropy_of_clips():
    model, batch = make_model(), make_batch()

    loss, correct = TrainingLoss(PLAIN, torch.ones(2)).backward(model, batch)

    logits = model(batch.x, batch.mask).clips
    assert loss == pytest.approx(functional.cross_entropy(logits, batch.labels).item())
    assert correct == int((logits.argmax(1) == batch.labels).sum())


def test_class_weights():
    model, batch = make_model(), make_batch()

    loss = loss_of(model, batch, weights=(3.0, 1.0))

    logits = model(batch.x, batch.mask).clips
    expected = functional.cross_entropy(logits, batch.labels, weight=torch.tensor([3.0, 1.0]))
    assert loss == pytest.approx(expected.item())


def test_label_smoothing():
    model, batch = make_model(), make_batch()

    loss = loss_of(model, batch, TrainingOptions(label_smoothing=0.2))

    logits = model(batch.x, batch.mask).clips
    expected = functional.cross_entropy(logits, batch.labels, label_smoothing=0.2)
    assert loss == pytest.approx(expected.item())


def test_frame_weight_adds_the_cross_entropy_of_frames_in_the_mask():
    model, batch = make_model(), make_batch()

    plain = loss_of(model, batch)
    loss = loss_of(model, batch, TrainingOptions(label_smoothing=0, frame_weight=0.5))

    frames = model(batch.x, batch.mask).frames
    losses = functional.cross_entropy(
        frames.transpose(1, 2), batch.labels.unsqueeze(1).expand(-1, 12), reduction="none"
    )
    frame_loss = torch.stack([losses[0].mean(), losses[1, :7].mean()]).mean()
    assert loss == pytest.approx(plain + 0.5 * frame_loss.item())


def test_l1_penalty():
    model, batch = make_model(), make_batch()

    penalty = loss_of(model, batch, TrainingOptions(label_smoothing=0, l1=0.1))
    penalty -= loss_of(model, batch)

    matrices = [p for p in model.parameters() if p.ndim > 1]
    assert penalty == pytest.approx(0.1 * sum(p.abs().sum().item() for p in matrices))
    assert penalty == pytest.approx(0.1 * l1_norm(model).item())


class TestLongClips:
    @staticmethod
    def cross_entropy(model, batch, start, stop):
        logits = model(batch.x[:, start:stop], batch.mask[:, start:stop]).clips
        return functional.cross_entropy(logits, batch.labels).item()

    def test_streaming_models_carry_their_state_from_chunk_to_chunk(self):
        model, batch = make_model(), make_batch(lengths=(12, 12))

        loss = loss_of(model, batch, TrainingOptions(label_smoothing=0, unroll=5))

        shares = ((5 / 12, 5), (5 / 12, 10), (2 / 12, 12))
        assert loss == pytest.approx(
            sum(share * self.cross_entropy(model, batch, 0, stop) for share, stop in shares)
        )

    def test_a_chunk_as_long_as_the_clip_is_the_clip(self):
        model, batch = make_model(), make_batch()
        whole = gradients(model, batch, TrainingOptions(unroll=100))

        assert torch.equal(gradients(model, batch, TrainingOptions(unroll=12)), whole)

    def test_gradients_do_not_flow_to_earlier_chunks(self):
        model, batch = make_model("rnn_tanh"), make_batch(lengths=(12, 12))
        loss = TrainingLoss(TrainingOptions(unroll=4), torch.ones(2))
        batch.x.requires_grad_()
        (*_, (last, _)) = loss._chunk_losses(model, batch)

        last.backward()

        reached = batch.x.grad.abs().sum((0, 2)) > 0
        assert reached.tolist() == [False] * 8 + [True] * 4

    def test_chunks_after_the_end_of_a_clip_have_no_weight(self):
        model, batch = make_model(), make_batch(lengths=(12, 4))
        options = TrainingOptions(label_smoothing=0, unroll=4)

        loss = loss_of(model, batch, options)

        first = Batch(batch.x[:1], batch.mask[:1], batch.labels[:1])
        second = Batch(batch.x[1:, :4], batch.mask[1:, :4], batch.labels[1:])
        expected = (loss_of(model, first, options) + loss_of(model, second, options)) / 2
        assert loss == pytest.approx(expected)

    def test_models_that_need_whole_clips_see_chunks_as_clips(self):
        model, batch = make_model(bidirectional=True), make_batch(lengths=(12, 12))

        loss = loss_of(model, batch, TrainingOptions(label_smoothing=0, unroll=6))

        chunks = [self.cross_entropy(model, batch, start, start + 6) for start in (0, 6)]
        assert loss == pytest.approx(sum(chunks) / 2)

    @pytest.mark.parametrize("values", [{}, {"bidirectional": True}, {"cell": "transformer"}])
    def test_the_predicted_label_does_not_depend_on_padding(self, values):
        """The last chunk of the short clip is padding, for which the bias prefers label 0."""
        model, batch = make_model(**values), make_batch(lengths=(12, 4))
        long, short = (
            Batch(batch.x[n : n + 1, :length], batch.mask[n : n + 1, :length], batch.labels[n:][:1])
            for n, length in ((0, 12), (1, 4))
        )
        with torch.no_grad():  # predict label 1 for the short clip
            embedding = model(short.x, short.mask).embeddings[0]
            model.head.weight[1] = 10 * embedding / embedding.square().sum()
            model.head.weight[0] = 0
            model.head.bias.copy_(torch.tensor([2.0, 0.0]))
        options = TrainingOptions(label_smoothing=0, unroll=4)

        assert correct_of(model, short, options) == 1
        assert correct_of(model, batch, options) == correct_of(model, long, options) + 1


def test_temporal_models_compute_in_float32_whatever_the_precision():
    model, batch = make_model(), make_batch()

    plain = loss_of(model, batch)
    reduced = loss_of(model, batch, TrainingOptions(label_smoothing=0, precision="bfloat16"))

    assert plain == reduced
