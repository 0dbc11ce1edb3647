"""Dilated convolutions, refinement stages, and blocks of frames."""

from __future__ import annotations

import pytest
import torch

from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

D, K = 5, 3
STRIDES = (1, 2, 4)


def make(cell="tcn", **changes):
    torch.manual_seed(0)
    options = {"layers": 3, "size": 8, "refine": 2, "refine_layers": 3, "refine_size": 6, **changes}
    model = TemporalModel(D, K, TemporalOptions(cell=cell, **options))
    return model.eval().requires_grad_(False)


def stream(model, x, chunk, mask):
    """Run a sequence in chunks: logits of frames, and of clips at the end."""
    state, frames = model.initial_state(len(x)), []
    for part, valid in zip(x.split(chunk, 1), mask.split(chunk, 1), strict=True):
        logits, state = model.stream(part, state, valid)
        frames.append(logits.frames)
    return torch.cat(frames, 1), logits.clips


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("cell", ["tcn", "lstm", "mean"])
def test_chunks_give_the_same_logits_as_the_whole(cell, stride):
    """With masked frames, and chunks that end within a block."""
    model = make(cell, stride=stride, differences=True)
    x, mask = torch.randn(3, 101, D), torch.rand(3, 101) < 0.8
    expected = model(x, mask)
    for chunk in (1, 3, 50):
        frames, clips = stream(model, x, chunk, mask)

        assert (frames - expected.frames)[mask].abs().max() <= 1e-5
        assert (clips - expected.clips).abs().max() <= 1e-5


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_does_not_change_the_logits(bidirectional, stride):
    model = make(bidirectional=bidirectional, stride=stride)
    lengths = torch.tensor([60, 41, 2])
    x, mask = torch.randn(3, 60, D), torch.arange(60) < lengths.unsqueeze(1)
    batch = model(x, mask).frames
    for row, length in enumerate(lengths.tolist()):
        alone = model(x[row : row + 1, :length]).frames

        assert (batch[row, :length] - alone[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("differences", [False, True])
def test_frames_beyond_the_context_have_no_influence(differences, bidirectional, stride):
    model = make(bidirectional=bidirectional, stride=stride, differences=differences)
    context, middle = model.context, 300
    x = torch.randn(1, 601, D)
    changed = x.clone()
    changed[:, middle] += 5
    difference = (model(x).frames - model(changed).frames)[0].abs().amax(1) > 1e-6
    influenced = difference.nonzero()[:, 0]

    assert influenced.max() <= middle + context
    assert influenced.min() >= (middle - context if bidirectional else middle)
    assert influenced.max() >= middle + context / 2  # it is not exaggerated


@pytest.mark.parametrize(
    ("cell", "changes"), [("gru", {"bidirectional": True}), ("transformer", {}), ("lstm", {})]
)
def test_other_cells_have_no_limited_context(cell, changes):
    assert make(cell, size=8, **changes).context is None


def test_every_stage_is_computed_from_the_probabilities_of_the_stage_before():
    model = make(bidirectional=True)
    x, state = torch.randn(2, 40, D), model.initial_state(2)
    lengths = torch.full((2,), 40)
    stages, _ = model.stages(x, lengths, state)
    shifted, _ = model.refinement(stages[0] + 1, state.refinement, lengths)

    assert len(stages) == 3
    assert (stages[-1] - model(x).frames).abs().max() <= 1e-5
    # a constant added to all logits changes no probability
    assert (shifted[0] - stages[1]).abs().max() <= 1e-5


def test_labels_that_are_independent_are_refined_from_sigmoids():
    model, independent = make(bidirectional=True), make(bidirectional=True, multi_label=True)
    independent.load_state_dict(model.state_dict())
    x = torch.randn(1, 20, D)

    assert not torch.allclose(model(x).frames, independent(x).frames, atol=1e-3)


class TestBlocks:
    def test_a_frame_has_the_logits_of_its_block(self):
        """Block 0 is frame 0, block 1 the frames 1 to 4."""
        frames = make(bidirectional=True, stride=4)(torch.randn(1, 14, D)).frames[0]

        assert [int((frames == row).all(1).sum()) for row in frames[[0, 1, 5, 13]]] == [1, 4, 4, 1]

    def test_a_model_that_looks_back_holds_the_logits_of_the_last_complete_block(self):
        frames = make(stride=4)(torch.randn(1, 14, D)).frames[0]

        assert [int((frames == row).all(1).sum()) for row in frames[[0, 4, 12]]] == [4, 4, 2]

    def test_a_block_is_the_mean_of_its_frames(self):
        model = make("mean", stride=4, refine=0)
        x = torch.randn(1, 9, D)
        means = torch.stack([x[0, 0], x[0, 1:5].mean(0), x[0, 5:9].mean(0)])
        expected = make("mean", refine=0)(means.unsqueeze(0)).frames[0]

        assert (model(x).frames[0, [0, 4, 8]] - expected).abs().max() <= 1e-5

    def test_a_short_first_chunk_has_the_logits_of_its_first_frame(self):
        model = make(stride=4)
        x = torch.randn(1, 2, D)
        logits, state = model.stream(x, model.initial_state(1))

        assert torch.equal(logits.frames[0, 0], logits.frames[0, 1])
        assert state.steps.tolist() == [2]
