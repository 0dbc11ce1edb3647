"""Encoding of clips by a backbone whose last blocks are trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.encode.engine import Placement
from pipeline.encode.torch_engine import TorchEngine
from pipeline.errors import MachineError
from pipeline.training.finetune.augment import sample_params
from pipeline.training.finetune.blocks import unfreeze_last
from pipeline.training.finetune.encoder import ClipEncoder, ClipSample, autocast
from tests.training.finetune.synthetic_task import STEPS, TRAINING, TUNING, draw_frames, make_task

ALL = torch.ones(STEPS, dtype=torch.bool)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    made = make_task(tmp_path_factory.mktemp("frames"), clips=4, validation=0)
    unfreeze_last(made.backbone, 1)
    return made


def encoder_of(task, chunk=4):
    return ClipEncoder(task.backbone, task.cache, TRAINING, chunk)


def sample_of(example, trained=(), params=None, mask=ALL):
    chosen = torch.zeros(STEPS, dtype=torch.bool)
    chosen[list(trained)] = True
    return ClipSample(example, mask, chosen, params)


def test_features_equal_those_of_a_run(task):
    """The trained backbone must see the same inputs as in `run`."""
    engine = TorchEngine(task.backbone, Placement("cpu", "float32"), 4)
    (example,) = encoder_of(task).encode_examples(task.examples[1:2])

    frames = torch.from_numpy(draw_frames(1, 1, task.cache.size))

    np.testing.assert_allclose(example.features, engine.start(frames)(), rtol=1e-4, atol=1e-5)


def test_bfloat16_changes_little(task):
    samples = [sample_of(example) for example in task.examples]
    reduced = ClipEncoder(
        task.backbone, task.cache, replace(TRAINING, precision="bfloat16"), chunk=4
    )

    plain, found = encoder_of(task).encode(samples), reduced.encode(samples)

    assert found.dtype == torch.float32
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("precision", "computes", "reduced"),
    [("auto", True, True), ("auto", False, False), ("bfloat16", False, True), ("float32", 1, 0)],
)
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_auto_uses_bfloat16_on_gpus_that_support_it(precision, computes, reduced, monkeypatch):
    def supported(including_emulation=True):
        return including_emulation or computes

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    made = []
    monkeypatch.setattr(torch, "autocast", lambda *given, enabled: made.append((*given, enabled)))
    autocast(replace(TRAINING, precision=precision), torch.device("cuda"))

    assert made == [("cuda", torch.bfloat16, bool(reduced))]


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_results_are_independent_of_the_chunk_size(task, chunk):
    generator = torch.Generator().manual_seed(0)
    params = sample_params(task.cache.size, TUNING, generator, mirror=True)
    samples = [sample_of(example, (0, 3), params) for example in task.examples]

    found = encoder_of(task, chunk).encode(samples)

    torch.testing.assert_close(found, encoder_of(task).encode(samples), rtol=1e-4, atol=1e-5)


def test_masked_frames_are_not_encoded(task):
    mask = torch.tensor([True, False, True, True, False, False])
    (x,) = encoder_of(task).encode([sample_of(task.examples[0], mask=mask)])

    assert torch.equal(x.abs().sum(1) > 0, mask)


def test_gradients_flow_through_the_chosen_frames_only(task):
    x = encoder_of(task).encode([sample_of(task.examples[0], (1, 4))])

    assert x.requires_grad
    for frame in range(STEPS):
        (gradient, *_) = torch.autograd.grad(
            x[0, frame].sum(),
            [p for p in task.backbone.module.parameters() if p.requires_grad],
            retain_graph=True,
        )
        assert bool(gradient.abs().sum() > 0) == (frame in (1, 4)), frame


def test_activations_are_kept_for_frames_with_gradients_only(task):
    def activation_bytes(count, trained):
        sizes = []

        def keep(tensor):
            sizes.append(tensor.nbytes)
            return tensor

        mask = ALL & (torch.arange(STEPS) < count)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            encoder_of(task).encode([sample_of(task.examples[0], trained, mask=mask)])
        return sum(sizes)

    assert (
        activation_bytes(2, (0, 1))
        == activation_bytes(6, (0, 1))
        < activation_bytes(6, (0, 1, 2, 3))
    )
    assert activation_bytes(6, ()) == 0


def test_at_most_a_chunk_is_encoded_at_once(task):
    encoder, counts = encoder_of(task, chunk=4), []
    hook = encoder.module.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    encoder.encode([sample_of(task.examples[0], (5,))])
    hook.remove()

    assert counts == [4, 1, 1]


def test_without_chosen_frames_there_is_no_gradient(task):
    assert not encoder_of(task).encode([sample_of(task.examples[0])]).requires_grad


def test_shorter_clips_are_padded(task):
    short = replace(
        task.examples[1],
        mask=np.ones(3, np.bool_),
        features=np.zeros((3, task.backbone.feature_size), np.float32),
        sample_index=np.arange(2, 5),
    )
    samples = [
        sample_of(task.examples[0]),
        replace(sample_of(short), mask=ALL[:3], trained=~ALL[:3]),
    ]

    x = encoder_of(task).encode(samples)

    assert x.shape == (2, STEPS, task.backbone.feature_size)
    assert not x[1, 3:].any()
    (whole,) = encoder_of(task).encode_examples(task.examples[1:2])
    torch.testing.assert_close(
        x[1, :3], torch.from_numpy(whole.features[2:5]), rtol=1e-4, atol=1e-5
    )


def test_batch_norm_statistics_do_not_change(task):
    before = {name: value.clone() for name, value in task.backbone.module.named_buffers()}
    encoder_of(task).encode([sample_of(task.examples[0], range(STEPS))])

    assert any("running_mean" in name for name in before)
    for name, value in task.backbone.module.named_buffers():
        assert torch.equal(value, before[name]), name


def test_missing_frames_fail(task):
    lost = replace(task.examples[0], video_id="nowhere")

    with pytest.raises(MachineError, match=r"nowhere.pictures is damaged: .* delete it"):
        encoder_of(task).encode_examples([lost])
