"""Clips through a backbone whose last blocks learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.encode.engine import Placement
from pipeline.encode.torch_engine import TorchEngine
from pipeline.errors import MachineError
from pipeline.training.finetune.augment import draw_view
from pipeline.training.finetune.blocks import free_last
from pipeline.training.finetune.encoder import ClipEncoder, Look, autocast
from tests.training.finetune.material import STEPS, TRAINING, TUNING, draw, make_lesson

ALL = torch.ones(STEPS, dtype=torch.bool)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    made = make_lesson(tmp_path_factory.mktemp("pictures"), clips=4, held=0)
    free_last(made.backbone, 1)
    return made


def encoder_of(lesson, chunk=4):
    return ClipEncoder(lesson.backbone, lesson.cache, TRAINING, chunk)


def look_at(example, learned=(), view=None, mask=ALL):
    chosen = torch.zeros(STEPS, dtype=torch.bool)
    chosen[list(learned)] = True
    return Look(example, mask, chosen, view)


def test_features_are_those_of_a_run(lesson):
    """What is learned from pictures as they are must hold for what `run` encodes."""
    engine = TorchEngine(lesson.backbone, Placement("cpu", "float32"), 4)
    (example,) = encoder_of(lesson).encoded(lesson.examples[1:2])

    pictures = torch.from_numpy(draw(1, 1, lesson.cache.size))

    np.testing.assert_allclose(example.features, engine.start(pictures)(), rtol=1e-4, atol=1e-5)


def test_bfloat16_changes_little(lesson):
    looks = [look_at(example) for example in lesson.examples]
    reduced = ClipEncoder(
        lesson.backbone, lesson.cache, replace(TRAINING, precision="bfloat16"), chunk=4
    )

    plain, found = encoder_of(lesson).encode(looks), reduced.encode(looks)

    assert found.dtype == torch.float32
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found, plain, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("precision", "computes", "reduced"),
    [("auto", True, True), ("auto", False, False), ("bfloat16", False, True), ("float32", 1, 0)],
)
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_on_a_gpu_bfloat16_is_taken_where_that_computes_it(
    precision, computes, reduced, monkeypatch
):
    def supported(including_emulation=True):
        return including_emulation or computes

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    made = []
    monkeypatch.setattr(torch, "autocast", lambda *given, enabled: made.append((*given, enabled)))
    autocast(replace(TRAINING, precision=precision), torch.device("cuda"))

    assert made == [("cuda", torch.bfloat16, bool(reduced))]


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_chunks_do_not_matter(lesson, chunk):
    generator = torch.Generator().manual_seed(0)
    view = draw_view(lesson.cache.size, TUNING, generator, mirror=True)
    looks = [look_at(example, (0, 3), view) for example in lesson.examples]

    found = encoder_of(lesson, chunk).encode(looks)

    torch.testing.assert_close(found, encoder_of(lesson).encode(looks), rtol=1e-4, atol=1e-5)


def test_frames_that_do_not_count_are_not_encoded(lesson):
    mask = torch.tensor([True, False, True, True, False, False])
    (x,) = encoder_of(lesson).encode([look_at(lesson.examples[0], mask=mask)])

    assert torch.equal(x.abs().sum(1) > 0, mask)


def test_gradients_come_from_the_chosen_frames_only(lesson):
    x = encoder_of(lesson).encode([look_at(lesson.examples[0], (1, 4))])

    assert x.requires_grad
    for frame in range(STEPS):
        (gradient, *_) = torch.autograd.grad(
            x[0, frame].sum(),
            [p for p in lesson.backbone.module.parameters() if p.requires_grad],
            retain_graph=True,
        )
        assert bool(gradient.abs().sum() > 0) == (frame in (1, 4)), frame


def test_memory_grows_with_the_frames_that_are_learned_from_alone(lesson):
    def remembered(count, learned):
        sizes = []

        def keep(tensor):
            sizes.append(tensor.nbytes)
            return tensor

        mask = ALL & (torch.arange(STEPS) < count)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            encoder_of(lesson).encode([look_at(lesson.examples[0], learned, mask=mask)])
        return sum(sizes)

    assert remembered(2, (0, 1)) == remembered(6, (0, 1)) < remembered(6, (0, 1, 2, 3))
    assert remembered(6, ()) == 0


def test_no_more_frames_than_a_chunk_are_encoded_at_once(lesson):
    encoder, counts = encoder_of(lesson, chunk=4), []
    hook = encoder.module.register_forward_pre_hook(lambda _, given: counts.append(len(given[0])))
    encoder.encode([look_at(lesson.examples[0], (5,))])
    hook.remove()

    assert counts == [4, 1, 1]


def test_nothing_is_remembered_where_nothing_is_learned(lesson):
    assert not encoder_of(lesson).encode([look_at(lesson.examples[0])]).requires_grad


def test_shorter_clips_are_padded(lesson):
    short = replace(
        lesson.examples[1],
        mask=np.ones(3, np.bool_),
        features=np.zeros((3, lesson.backbone.feature_size), np.float32),
        sample_index=np.arange(2, 5),
    )
    looks = [look_at(lesson.examples[0]), replace(look_at(short), mask=ALL[:3], learned=~ALL[:3])]

    x = encoder_of(lesson).encode(looks)

    assert x.shape == (2, STEPS, lesson.backbone.feature_size)
    assert not x[1, 3:].any()
    (whole,) = encoder_of(lesson).encoded(lesson.examples[1:2])
    torch.testing.assert_close(
        x[1, :3], torch.from_numpy(whole.features[2:5]), rtol=1e-4, atol=1e-5
    )


def test_norms_keep_their_statistics(lesson):
    before = {name: value.clone() for name, value in lesson.backbone.module.named_buffers()}
    encoder_of(lesson).encode([look_at(lesson.examples[0], range(STEPS))])

    assert any("running_mean" in name for name in before)
    for name, value in lesson.backbone.module.named_buffers():
        assert torch.equal(value, before[name]), name


def test_pictures_that_are_gone_fail(lesson):
    lost = replace(lesson.examples[0], video_id="nowhere")

    with pytest.raises(MachineError, match=r"nowhere.pictures is damaged: .* delete it"):
        encoder_of(lesson).encoded([lost])
