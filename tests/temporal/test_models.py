"""Temporal models: masks, shapes, streaming, pooling, inputs, directions."""

from __future__ import annotations

import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.errors import OptionError
from pipeline.temporal.cells import CELLS
from pipeline.temporal.layers import positional_encoding, reverse
from pipeline.temporal.models import State, TemporalModel, move_valid_to_front
from pipeline.temporal.options import TemporalOptions

N, LENGTH, D, K = 3, 11, 6, 4
GRU = TemporalOptions(cell="gru", size=8)
STREAMING = [
    *(TemporalOptions(cell=cell, size=8) for cell in ("mean", *CELLS)),
    *(TemporalOptions(cell="gru", size=8, pooling=pooling) for pooling in ("last", "attention")),
    TemporalOptions(cell="mean", size=8, pooling="attention", differences=True),
    TemporalOptions(cell="lstm", layers=3, size=8, differences=True, pooling="last"),
    TemporalOptions(cell="mingru", layers=2, size=8, residual=False, layer_norm=False),
    TemporalOptions(cell="rnn_tanh", layers=2, size=8, differences=True, dropout=0.5),
]
WHOLE = [
    TemporalOptions(cell="transformer", size=8, heads=2),
    TemporalOptions(cell="transformer", size=8, heads=2, causal=True, layers=2, dropout=0.5),
    TemporalOptions(cell="gru_transformer", size=8, heads=2, pooling="attention"),
    TemporalOptions(cell="gru_transformer", size=8, heads=2, bidirectional=True),
    TemporalOptions(cell="gru_transformer", size=8, heads=2, causal=True, differences=True),
    *(TemporalOptions(cell=cell, size=8, bidirectional=True) for cell in CELLS),
    TemporalOptions(cell="lstm", layers=2, size=8, bidirectional=True, pooling="last"),
]


def name(options):
    words = [options.cell, options.pooling, f"{options.layers}x"]
    flags = ("bidirectional", "causal", "differences")
    return "-".join(words + [flag for flag in flags if getattr(options, flag)])


def each(options):
    return pytest.mark.parametrize("options", options, ids=name)


def make(options, labels=K, features=D):
    """Make a model with random values in all parameters."""
    torch.manual_seed(4)
    model = TemporalModel(features, labels, options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.35)
    model.set_standardization(torch.randn(features), torch.rand(features) + 0.5)
    return model.eval().requires_grad_(False)


def identity_head(options):
    """Make a model whose frame logits are its hidden states."""
    model = make(options, labels=options.size)
    model.head.weight.copy_(torch.eye(options.size))
    model.head.bias.zero_()
    return model


def assert_close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@pytest.fixture
def x():
    return torch.randn(N, LENGTH, D)


@pytest.fixture
def mask():
    """One full sequence, one padded, one with gaps and without its first step."""
    mask = torch.ones(N, LENGTH, dtype=torch.bool)
    mask[1, 7:] = False
    mask[2, [0, 3, 4, 10]] = False
    return mask


class TestMask:
    @each(STREAMING + WHOLE)
    def test_masked_steps_have_no_influence(self, options, x, mask):
        model = make(options)
        x[~mask] = 1e4
        found = model(x, mask)
        for number in range(N):
            alone = model(x[number, mask[number]].unsqueeze(0))
            assert_close(found.clips[number], alone.clips[0])
            assert_close(found.embeddings[number], alone.embeddings[0])
            assert_close(found.frames[number, mask[number]], alone.frames[0])

    @each(STREAMING + WHOLE)
    def test_masked_steps_repeat_the_logits_of_the_step_before(self, options, x, mask):
        frames = make(options)(x, mask).frames

        assert torch.equal(frames[1, 7:], frames[1, 6].expand(4, K))
        assert torch.equal(frames[2, [3, 4]], frames[2, 2].expand(2, K))
        assert torch.equal(frames[2, 10], frames[2, 9])
        assert torch.equal(frames[2, 0], frames[2, 1])  # no step before: the first valid one

    @each(STREAMING + WHOLE)
    def test_a_fully_masked_sequence_is_finite_and_does_not_affect_others(self, options, x):
        model = make(options)
        mask = torch.ones(N, LENGTH, dtype=torch.bool)
        mask[1] = False
        found = model(x, mask)
        expected = model(x[[0, 2]])

        assert all(part.isfinite().all() for part in found)
        assert not found.embeddings[1].any()
        assert_close(found.clips[[0, 2]], expected.clips)
        assert_close(found.frames[[0, 2]], expected.frames)

    @each(STREAMING + WHOLE)
    def test_without_a_mask_all_steps_are_valid(self, options, x):
        model = make(options)
        full = torch.ones(N, LENGTH, dtype=torch.bool)

        assert torch.equal(model(x).frames, model(x, full).frames)

    @each([STREAMING[0], GRU, WHOLE[0], WHOLE[2], WHOLE[-1]])
    def test_masked_steps_get_no_gradient(self, options, x, mask):
        model = make(options)
        x.requires_grad_()
        logits = model(x, mask)
        (logits.clips.square().sum() + logits.frames.square().sum()).backward()

        assert not x.grad[~mask].any()
        assert x.grad[mask].abs().amin(1).min() > 0

    def test_compact(self):
        x = torch.arange(8.0).view(2, 4, 1)
        mask = torch.tensor([[False, True, False, True], [True, True, False, False]])
        moved, lengths = move_valid_to_front(x, mask)

        assert lengths.tolist() == [2, 2]
        assert moved[:, :2, 0].tolist() == [[1, 3], [4, 5]]

    @pytest.mark.parametrize(
        ("x", "mask", "message"),
        [
            (torch.zeros(2, 3), None, r"x must be \(N, L, 6\), got \(2, 3\)"),
            (torch.zeros(2, 3, 5), None, r"x must be \(N, L, 6\), got \(2, 3, 5\)"),
            (torch.zeros(2, 3, 6), torch.ones(2, 3), r"mask must be bool \(2, 3\), got torch.fl"),
            (torch.zeros(2, 3, 6), torch.ones(3, 2, dtype=torch.bool), r"got torch.bool \(3, 2\)"),
        ],
    )
    def test_wrong_shapes_fail(self, x, mask, message):
        with pytest.raises(ValueError, match=message):
            make(STREAMING[0])(x, mask)


class TestShapes:
    @each(STREAMING + WHOLE)
    @pytest.mark.parametrize("length", [1, 2, LENGTH])
    def test_logits(self, options, length):
        model = make(options)
        found = model(torch.randn(N, length, D))
        width = 8 * (2 if options.bidirectional else 1)

        assert found.frames.shape == (N, length, K)
        assert found.clips.shape == (N, K)
        assert found.embeddings.shape == (N, width)

    @each(STREAMING + WHOLE)
    def test_no_steps(self, options):
        found = make(options)(torch.zeros(N, 0, D))

        assert found.frames.shape == (N, 0, K)
        assert not found.embeddings.any()

    @each(STREAMING + WHOLE)
    def test_sequences_of_a_batch_are_independent(self, options, x):
        model = make(options)
        together = model(x)
        alone = [model(one.unsqueeze(0)) for one in x]

        assert_close(together.frames, torch.cat([logits.frames for logits in alone]))
        assert_close(together.clips, torch.cat([logits.clips for logits in alone]))

    @each(STREAMING + WHOLE)
    def test_every_parameter_gets_a_gradient(self, options, x):
        model = TemporalModel(D, K, options)
        logits = model(x)
        (logits.clips.square().sum() + logits.frames.square().sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}

        assert all(gradient.isfinite().all() for gradient in gradients.values())
        assert [name for name, gradient in gradients.items() if not gradient.any()] == []


def stream(model, x, lengths, mask=None):
    """Run a sequence in chunks: frame logits, the last logits, the last state."""
    state, frames, start = model.initial_state(len(x)), [], 0
    for length in lengths:
        part = slice(start, start + length)
        logits, state = model.stream(x[:, part], state, None if mask is None else mask[:, part])
        frames.append(logits.frames)
        start += length
    assert start == x.shape[1]
    return torch.cat(frames, dim=1), logits, state


class TestStream:
    @each(STREAMING)
    @pytest.mark.parametrize("lengths", [[LENGTH], [1] * LENGTH, [4, 1, 6], [0, 3, 0, 8, 0]])
    def test_chunks_give_the_same_logits_as_the_whole(self, options, x, lengths):
        model = make(options)
        expected = model(x)
        frames, logits, state = stream(model, x, lengths)

        assert_close(frames, expected.frames)
        assert_close(logits.clips, expected.clips)
        assert_close(logits.embeddings, expected.embeddings)
        assert state.steps.tolist() == [LENGTH] * N

    @settings(max_examples=60, deadline=None)
    @given(
        options=st.sampled_from(STREAMING),
        lengths=st.lists(st.integers(0, 9), min_size=1, max_size=8),
        seed=st.integers(0, 10_000),
    )
    def test_random_chunks_and_masks_give_the_same_logits(self, options, lengths, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(N, sum(lengths), D, generator=generator)
        mask = torch.rand(N, sum(lengths), generator=generator) < 0.7
        model = make(options)
        expected = model(x, mask)
        frames, logits, state = stream(model, x, lengths, mask)

        assert_close(frames[mask], expected.frames[mask])
        assert_close(logits.clips, expected.clips)
        assert_close(logits.embeddings, expected.embeddings)
        assert torch.equal(state.steps, mask.sum(1))

    @each(STREAMING)
    def test_single_steps_give_the_same_logits_as_the_whole(self, options, x):
        model = make(options)
        state, found = model.initial_state(N), []
        for step in x.unbind(1):
            frame, state = model.step(step, state)
            found.append(frame)

        assert found[0].shape == (N, K)
        assert_close(torch.stack(found, dim=1), model(x).frames)

    @each(STREAMING)
    def test_the_given_state_is_not_modified(self, options, x):
        model = make(options)
        _, state = model.stream(x, model.initial_state(N))
        before = {name: value.clone() for name, value in state.tensors().items()}
        model.stream(x, state)

        assert all(torch.equal(before[name], value) for name, value in state.tensors().items())

    @each(STREAMING)
    def test_a_saved_state_can_be_resumed(self, options, x, tmp_path):
        model = make(options)
        expected = model(x)
        _, state = model.stream(x[:, :5], model.initial_state(N))
        save_file(state.tensors(), tmp_path / "state.safetensors")
        read = State(**load_file(tmp_path / "state.safetensors"))
        logits, _ = model.stream(x[:, 5:], read)

        assert_close(logits.frames, expected.frames[:, 5:])
        assert_close(logits.clips, expected.clips)

    @each(STREAMING)
    def test_states_are_concatenated_and_selected(self, options, x):
        model = make(options)
        alone = [model.stream(one[None, :5], model.initial_state(1))[1] for one in x]
        together = State.concatenate([alone[2], alone[0]])
        logits, after = model.stream(x[[2, 0], 5:], together)
        expected, expected_state = model.stream(x[:1, 5:], alone[0])

        assert together.layers.shape[1:2] == together.previous.shape[:1] == (2,)
        assert_close(logits.frames[1:], expected.frames)
        assert_close(logits.clips[1:], expected.clips)
        for key, value in after.select(1).tensors().items():
            assert_close(value, expected_state.tensors()[key])

    @pytest.mark.parametrize("cell", ["mean", "gru", "mingru"])
    def test_streaming_has_constant_memory(self, cell):
        """The hidden states of all 100,000 steps would take 100 MB."""
        torch.manual_seed(0)
        model = TemporalModel(16, K, TemporalOptions(cell=cell, size=64, pooling="attention"))
        x = torch.randn(4, 1000, 16)
        _, state = model.eval().requires_grad_(False).stream(x, model.initial_state(4))
        sizes = {name: value.shape for name, value in state.tensors().items()}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(99):
            logits, state = model.stream(x, state)

        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB
        assert state.steps.tolist() == [100_000] * 4
        assert {name: value.shape for name, value in state.tensors().items()} == sizes
        assert all(part.isfinite().all() for part in logits)

    def test_the_mean_over_100_000_steps_is_exact(self):
        model = identity_head(TemporalOptions(cell="mean", size=8))
        x = torch.randn(1, 1000, D)
        expected = model(x).embeddings
        state = model.initial_state(1)
        for _ in range(100):
            logits, state = model.stream(x, state)

        assert_close(logits.embeddings, expected)


class TestNoStream:
    @pytest.mark.parametrize(
        ("options", "model_name"),
        [
            (WHOLE[0], "a transformer model"),
            (WHOLE[1], "a transformer model"),
            (WHOLE[4], "a gru_transformer model"),
            (TemporalOptions(cell="lstm", bidirectional=True, size=8), "a bidirectional lstm"),
        ],
    )
    def test_models_that_need_whole_clips_fail(self, options, model_name, x):
        model = make(options)

        assert not model.streams
        with pytest.raises(OptionError, match=rf"{model_name}.*cannot stream.*\(--clip-seconds\)"):
            model.stream(x, model.initial_state(N))
        with pytest.raises(OptionError, match="cannot stream"):
            model.step(x[:, 0], model.initial_state(N))

    @each(STREAMING)
    def test_all_other_models_stream(self, options):
        assert make(options).streams


class TestWrongState:
    @pytest.mark.parametrize("cell", ["gru", "lstm", "mingru", "rnn_tanh"])
    def test_a_transposed_state_fails(self, cell, x):
        """(H, N) instead of (N, H)."""
        model = make(TemporalOptions(cell=cell, size=8))
        state = model.initial_state(N)
        width = 16 if cell == "lstm" else 8
        transposed = replace(state, layers=state.layers.transpose(1, 2))

        with pytest.raises(
            ValueError,
            match=rf"state.layers must be \(1, 3, {width}\), got \(1, {width}, 3\): start from in",
        ):
            model.stream(x, transposed)

    def test_a_state_of_another_number_of_sequences_fails(self, x):
        model = make(GRU)

        with pytest.raises(ValueError, match=r"state.layers must be \(1, 3, 8\), got \(1, 2, 8\)"):
            model.stream(x, model.initial_state(2))

    def test_a_state_of_another_model_fails(self, x):
        one, two = (
            make(TemporalOptions(cell="gru", size=8)),
            make(TemporalOptions(cell="gru", size=8, layers=2)),
        )

        with pytest.raises(ValueError, match=r"state.layers must be \(1, .*got \(2, 3, 8\)"):
            one.stream(x, two.initial_state(N))

    @pytest.mark.parametrize("part", ["previous", "steps", "pooled"])
    def test_each_tensor_is_checked(self, part, x):
        model = make(GRU)
        tensors = model.initial_state(N).tensors()
        tensors[part] = tensors[part][:2]

        with pytest.raises(ValueError, match=rf"state\.{part} must be \(3"):
            model.stream(x, State(**tensors))


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


class TestPooling:
    @pytest.mark.parametrize("cell", ["mean", "gru", "lstm", "transformer"])
    @pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
    def test_pooling_matches_its_definition(self, cell, pooling, x, mask):
        model = identity_head(TemporalOptions(cell=cell, size=8, heads=2, pooling=pooling))
        found = model(x, mask)
        for number in range(N):
            hidden = found.frames[number, mask[number]].numpy()  # (L, H)
            if pooling == "mean":
                expected = hidden.mean(0)
            elif pooling == "last":
                expected = hidden[-1]
            else:
                expected = softmax(hidden @ model.pool.score.weight.numpy()[0]) @ hidden

            np.testing.assert_allclose(found.embeddings[number].numpy(), expected, atol=1e-5)
            np.testing.assert_allclose(found.clips[number].numpy(), expected, atol=1e-5)

    def test_attention_with_huge_scores_selects_the_greatest(self, x):
        model = identity_head(TemporalOptions(cell="mean", size=8, pooling="attention"))
        model.pool.score.weight.mul_(1e5)
        found = model(x)
        best = model.pool.score(found.frames)[..., 0].argmax(1)

        assert_close(found.embeddings, found.frames[torch.arange(N), best])

    @pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
    def test_pooling_of_no_steps_is_zero(self, pooling):
        model = identity_head(TemporalOptions(cell="gru", size=8, pooling=pooling))
        empty = torch.zeros(1, 5, dtype=torch.bool)

        assert not model(torch.randn(1, 5, D), empty).embeddings.any()


class TestInputs:
    def test_features_are_standardized(self, x):
        mean, std = torch.randn(D), torch.rand(D) + 0.1
        model = make(GRU)
        model.set_standardization(torch.zeros(D), torch.ones(D))
        expected = model((x - mean) / std).clips
        model.set_standardization(mean, std)

        assert_close(model(x).clips, expected)

    def test_a_constant_feature_gives_finite_logits(self, x):
        model = make(GRU)
        model.set_standardization(torch.zeros(D), torch.zeros(D))

        assert model(torch.zeros_like(x)).clips.isfinite().all()

    def test_differences_are_to_the_step_before(self, x):
        """A model without differences that gets them as features gives the same logits."""
        with_differences = make(TemporalOptions(cell="gru", size=8, differences=True))
        without = make(TemporalOptions(cell="gru", size=8), features=2 * D)
        state = with_differences.state_dict()
        mean, scale = state.pop("inputs.mean"), state.pop("inputs.scale")
        without.load_state_dict(state, strict=False)
        without.set_standardization(torch.zeros(2 * D), torch.ones(2 * D))
        y = (x - mean) * scale
        changes = torch.diff(y, dim=1, prepend=y[:, :1])

        assert not changes[:, 0].any()
        assert_close(with_differences(x).frames, without(torch.cat([y, changes], dim=2)).frames)


class TestDirections:
    @pytest.mark.parametrize("cell", CELLS)
    def test_two_directions_are_two_runs_one_of_them_reversed(self, cell, x, mask):
        both = make(TemporalOptions(cell=cell, size=8, bidirectional=True, layer_norm=False))
        ways = []
        for direction in (0, 1):
            one = make(TemporalOptions(cell=cell, size=8, layer_norm=False))
            one.inputs.load_state_dict(both.inputs.state_dict())
            one.recurrence.layers[0][0].load_state_dict(
                both.recurrence.layers[0][direction].state_dict()
            )
            one.head.weight.copy_(both.head.weight[:, 8 * direction : 8 * direction + 8])
            one.head.bias.copy_(both.head.bias / 2)
            ways.append(one)
        found = both(x, mask).frames
        for number in range(N):
            there = x[number, mask[number]].unsqueeze(0)
            back = ways[1](there.flip(1)).frames.flip(1)
            assert_close(found[number, mask[number]], (ways[0](there).frames + back)[0])

    def test_reverse_leaves_padding_at_the_end(self):
        x = torch.arange(8.0).view(2, 4, 1)

        assert reverse(x, torch.tensor([4, 2]))[..., 0].tolist() == [[3, 2, 1, 0], [5, 4, 6, 7]]

    @each([options for options in STREAMING + WHOLE if options.causal or options in STREAMING])
    def test_causal_models_do_not_depend_on_future_steps(self, options, x):
        model = make(options)
        changed = x.clone()
        changed[:, 6:] = torch.randn(N, LENGTH - 6, D)
        before, after = model(x).frames, model(changed).frames

        assert_close(after[:, :6], before[:, :6], 1e-6)
        assert (after[:, 6:] - before[:, 6:]).abs().max() > 1e-2

    @each([o for o in WHOLE if not o.causal])
    def test_other_models_depend_on_future_steps(self, options, x):
        model = make(options)
        changed = x.clone()
        changed[:, -1] += 3

        assert (model(changed).frames[:, 0] - model(x).frames[:, 0]).abs().max() > 1e-5


class TestPositionalEncoding:
    def test_a_transformer_depends_on_the_order_of_steps(self, x):
        model = make(WHOLE[0])

        assert (model(x).clips - model(x.flip(1)).clips).abs().max() > 1e-3

    @pytest.mark.parametrize("size", [7, 8])
    def test_the_encoding_is_that_of_the_paper(self, size):
        found = positional_encoding(torch.arange(5), size)
        expected = np.empty((5, size))
        for place in range(5):
            for column in range(size):
                angle = place / 10000 ** (2 * (column // 2) / size)
                expected[place, column] = np.cos(angle) if column % 2 else np.sin(angle)

        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_dropout_is_active_in_training_only(x):
    model = make(STREAMING[-1])

    assert torch.equal(model(x).clips, model(x).clips)
    model.train()
    assert not torch.equal(model(x).clips, model(x).clips)
