"""Temporal models as a library: `from pipeline.temporal import …` on any tensor."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.temporal
from pipeline.temporal import (
    Example,
    State,
    TemporalModel,
    TemporalOptions,
    TrainingOptions,
    fit,
    predict,
)

README = Path(__file__).parents[2] / "pipeline/temporal/README.md"


def draw_image(label, rng):
    """Draw an image (28, 28): a bar that leans left or right, or a ring."""
    rows, columns = np.mgrid[:28, :28] - 13.5 + rng.uniform(-3, 3, (2, 1, 1))
    if label == 2:
        shape = np.abs(np.hypot(rows, columns) - 8) < 2
    else:
        shape = np.abs(columns - (1 - 2 * label) * rows) < 2.5
    return (shape + 0.2 * rng.normal(size=(28, 28))).astype(np.float32)


def draw_images(count, seed):
    rng = np.random.default_rng(seed)
    return [
        Example(
            name=f"image {number}",
            video_id=f"image {number}",
            group=f"image {number}",
            label=number % 3,
            features=draw_image(number % 3, rng),
            mask=np.ones(28, np.bool_),
            start_seconds=0.0,
            end_seconds=28.0,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("cell", ["lstm", "gru", "mingru"])
def test_images_are_classified_as_sequences_of_rows(cell):
    """Each row of an image is a step: D = 28 and L = 28."""
    options = TrainingOptions(epochs=5, learning_rate=5e-3, validation=0, device="cpu")
    result = fit(draw_images(192, 0), 3, TemporalOptions(cell=cell, size=32), options)
    others = draw_images(60, 1)
    predicted = predict(result.model, others).argmax(1)

    assert (predicted == [example.label for example in others]).mean() >= 0.95


def test_any_tensor_with_a_mask_is_accepted():
    model = TemporalModel(28, 10, TemporalOptions(cell="gru", size=16)).eval()
    x, mask = torch.randn(4, 50, 28), torch.rand(4, 50) < 0.8
    frames, clips, embeddings = model(x, mask)

    assert frames.shape == (4, 50, 10)
    assert clips.shape == (4, 10)
    assert embeddings.shape == (4, 16)


def test_gradients_flow_to_the_inputs():
    """So the network that computes the features can be trained too."""
    model = TemporalModel(8, 2, TemporalOptions(cell="mingru", size=16))
    x = torch.randn(2, 20, 8, requires_grad=True)
    model(x).clips.sum().backward()

    assert x.grad.abs().amin((0, 2)).min() > 0


def test_steps_continue_from_a_state():
    model = TemporalModel(8, 2, TemporalOptions(cell="lstm", size=16)).eval()
    x = torch.randn(3, 5, 8)
    state = model.initial_state(3)
    for step in x.unbind(1):
        logits, state = model.step(step, state)

    assert isinstance(state, State)
    torch.testing.assert_close(logits, model(x).frames[:, -1], atol=1e-5, rtol=0)


def test_all_public_names_exist():
    assert all(hasattr(pipeline.temporal, name) for name in pipeline.temporal.__all__)


def test_the_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    examples = [block for block in blocks if "from pipeline.temporal import" in block]
    names = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)

    assert names["clips"].shape == (64, 10)
    assert names["logits"].shape == (64, 10)
    torch.testing.assert_close(names["logits"], names["frames"][:, -1], atol=1e-5, rtol=0)
    assert [logits.shape for logits in names["predicted"]] == [(200, 3)] * 2
    assert names["probabilities"].shape == (1, 200, 3)
    assert names["result"].model.options.stride == 4
