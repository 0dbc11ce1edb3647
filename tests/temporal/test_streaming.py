"""Streaming: the same logits as the whole, constant memory, states that can be saved."""

from __future__ import annotations

import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import OptionError
from pipeline.temporal.cells import CELLS
from pipeline.temporal.models import State, TemporalModel
from pipeline.temporal.options import TemporalOptions

D, K, SIZE = 4, 3, 8
CAUSAL = ("mean", *CELLS)
POOLINGS = ("mean", "last", "attention")


def make(cell, **changes):
    torch.manual_seed(3)
    options = TemporalOptions(cell=cell, size=SIZE, heads=2, **changes)
    return TemporalModel(D, K, options).eval().requires_grad_(False)


def stream(model, x, chunk, state=None):
    """Run a sequence in chunks: frame logits, the last clip logits, the state after."""
    state, frames = state or model.initial_state(len(x)), []
    for part in x.split(chunk, dim=1):
        logits, state = model.stream(part, state)
        frames.append(logits.frames)
    return torch.cat(frames, dim=1), logits.clips, state


def sizes(state):
    return {name: (value.shape, value.dtype) for name, value in state.tensors().items()}


def peak_kilobytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("cell", CAUSAL)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_chunks_of_a_long_sequence_give_the_same_logits_as_the_whole(cell, pooling):
    model = make(cell, pooling=pooling, layers=2, differences=True)
    x = torch.randn(2, 3000, D)
    expected = model(x)
    for chunk in (1000, 77):
        frames, clips, _ = stream(model, x, chunk)

        assert (frames - expected.frames).abs().max() <= 1e-5
        assert (clips - expected.clips).abs().max() <= 1e-5


@pytest.mark.parametrize("cell", CAUSAL)
def test_a_saved_state_is_resumed_by_another_model(cell, tmp_path):
    model = make(cell, layers=2, differences=True, pooling="attention")
    x = torch.randn(2, 500, D)
    expected = model(x)
    _, _, state = stream(model, x[:, :321], 64)
    save_file(state.tensors(), tmp_path / "state.safetensors")
    save_file(model.state_dict(), tmp_path / "model.safetensors")

    other = TemporalModel(D, K, model.options).eval().requires_grad_(False)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    loaded = State(**load_file(tmp_path / "state.safetensors"))
    frames, clips, after = stream(other, x[:, 321:], 64, loaded)

    assert sizes(loaded) == sizes(state)
    assert (frames - expected.frames[:, 321:]).abs().max() <= 1e-5
    assert (clips - expected.clips).abs().max() <= 1e-5
    assert after.steps.tolist() == [500, 500]


def test_a_state_of_an_earlier_version_continues():
    """It has no states of refinement stages and blocks."""
    model, x = make("gru"), torch.randn(2, 60, D)
    _, _, state = stream(model, x[:, :40], 20)
    earlier = State(state.layers, state.previous, state.steps, state.pooled)
    frames, _, _ = stream(model, x[:, 40:], 20, earlier)

    assert (frames - model(x).frames[:, 40:]).abs().max() <= 1e-5


def stream_noise(model, steps, chunk):
    """Stream noise: growth of peak memory in kB, the first and the last state."""
    _, first = model.stream(torch.randn(1, chunk, D), model.initial_state(1))
    state, before = first, peak_kilobytes()
    for _ in range(steps // chunk - 1):
        logits, state = model.stream(torch.randn(1, chunk, D), state)
    assert all(part.isfinite().all() for part in logits)
    return peak_kilobytes() - before, first, state


@pytest.mark.parametrize("cell", CAUSAL)
def test_memory_does_not_grow_in_twenty_thousand_steps(cell):
    growth, first, last = stream_noise(make(cell), 20_000, 500)

    assert last.steps.tolist() == [20_000]
    assert sizes(last) == sizes(first)
    assert growth < 10_000


@pytest.mark.slow
@pytest.mark.parametrize("cell", CAUSAL)
def test_memory_does_not_grow_in_a_million_steps(cell):
    """35 hours of video at 8 frames/s; the states of all steps would take 32 MB."""
    growth, first, last = stream_noise(make(cell), 1_000_000, 1000)

    assert last.steps.tolist() == [1_000_000]
    assert sizes(last) == sizes(first)
    assert growth < 10_000


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["mean", "lstm", "gru", "mingru"])
def test_chunks_of_a_million_steps_give_the_same_logits_as_the_whole(cell):
    model = make(cell)
    x = torch.randn(1, 1_000_000, D)
    expected = model(x)
    frames, clips, _ = stream(model, x, 1000)

    assert (frames - expected.frames).abs().max() <= 1e-5
    assert (clips - expected.clips).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("cell", "changes", "named"),
    [
        *((cell, {"bidirectional": True}, f"a bidirectional {cell} model") for cell in CELLS),
        ("transformer", {}, "a transformer model"),
        ("gru_transformer", {"bidirectional": True}, "a bidirectional gru_transformer model"),
    ],
)
def test_models_that_need_whole_clips_fail_to_stream(cell, changes, named):
    model = make(cell, **changes)

    with pytest.raises(OptionError, match=f"{named} needs whole clips and cannot stream: cut the"):
        model.stream(torch.randn(1, 5, D), model.initial_state(1))
