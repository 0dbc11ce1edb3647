"""Recognizers with random weights, features of one video in chunks, and what the model computes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from pipeline.config import ClipWindows, Sampling
from pipeline.recognition.recognize import recognize
from pipeline.recognition.recognizer import BackboneSpec, CutSpec, Recognizer
from pipeline.records import DecodeReport, FrameFeatures
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

D, K, FPS = 5, 3, 8
CUT = D - 1
GRU = TemporalOptions(cell="gru", size=8)
STREAMING = [
    GRU,
    TemporalOptions(cell="lstm", size=8, layers=2, differences=True, pooling="last"),
    TemporalOptions(cell="mingru", size=8, pooling="attention"),
    TemporalOptions(cell="tcn", layers=2, size=8, stride=2, refine=1, refine_layers=2),
]
WHOLE_CLIPS = [
    TemporalOptions(cell="gru", size=8, bidirectional=True, pooling="last"),
    TemporalOptions(cell="transformer", size=8, heads=2),
]
OK = DecodeReport("ok")


def cell(options):
    return options.cell + "-bidirectional" * options.bidirectional


def make(options=GRU, *, context=0, cuts=False, **changes):
    torch.manual_seed(9)
    model = TemporalModel(D, K, options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return Recognizer(
        **{
            "name": "toy",
            "labels": ("a", "b", "c"),
            "sampling": Sampling(fps=FPS),
            "clips": ClipWindows(),
            "backbone": BackboneSpec("toy", "", D, context=context),
            "temporal": options,
            "model": model.eval().requires_grad_(False),
            "cut": CutSpec(CUT, 10.0) if cuts else None,
            **changes,
        }
    )


def draw(count, seed=0, cuts=()):
    """Make features (T, D); the last one marks cuts."""
    values = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float16)
    values[:, CUT] = 0
    values[list(cuts), CUT] = 20
    return values


def chunks(values, sizes=(), video_id="v", first=0):
    """Split features into chunks of the given sizes, then the rest."""
    edges = [0]
    for size in sizes:
        edges.append(min(len(values), edges[-1] + size))
    edges.append(len(values))
    for start, stop in itertools.pairwise(edges):
        index = np.arange(first + start, first + stop)
        yield FrameFeatures(
            video_id=video_id,
            start=start,
            stop=stop,
            num_samples=len(values),
            values=values[start:stop],
            sample_index=index,
            frame_index=index * 3,
            pts_seconds=index / FPS - 0.01,
            report=OK,
        )


def run(recognizer, values, sizes=(), windows=None, seconds=None):
    duration = len(values) / FPS if seconds is None else seconds
    (found,) = recognize(recognizer, [("v", chunks(values, sizes), duration)], windows)
    return found


def forward(recognizer, values, mask=None):
    """Run the model: probabilities of frames (L, K) and clip (K,), and the embedding."""
    x = torch.from_numpy(values.astype(np.float32)).unsqueeze(0)
    logits = recognizer.model(x, None if mask is None else torch.tensor(mask).unsqueeze(0))
    frames, clip = (
        torch.softmax(part[0] / recognizer.temperature, dim=-1).numpy()
        for part in (logits.frames, logits.clips)
    )
    return frames, clip, logits.embeddings[0].numpy()


def flat(found):
    """Concatenate the arrays of frames."""
    names = ("sample_index", "frame_index", "pts_seconds", "shots", "labels", "scores")
    return {name: np.concatenate(getattr(found, name)) for name in names}


def assert_frames(found, probabilities):
    columns = flat(found)
    np.testing.assert_array_equal(columns["labels"], probabilities.argmax(1))
    np.testing.assert_allclose(columns["scores"], probabilities.max(1), atol=1e-5)


def assert_clip(clip, probabilities, embedding):
    np.testing.assert_allclose(clip.probabilities, probabilities, atol=1e-5)
    np.testing.assert_allclose(clip.embedding, embedding, atol=1e-5)


def assert_same(found, expected):
    """Compare two recognitions of one video."""
    for clip, other in zip(found.clips, expected.clips, strict=True):
        assert (clip.shot, clip.num_frames) == (other.shot, other.num_frames)
        assert clip.start_seconds == pytest.approx(other.start_seconds)
        assert clip.end_seconds == pytest.approx(other.end_seconds)
        assert_clip(clip, other.probabilities, other.embedding)
    assert len(found.segments) == len(expected.segments)
    for part, other in zip(found.segments, expected.segments, strict=True):
        assert dataclasses.astuple(part) == pytest.approx(dataclasses.astuple(other), abs=1e-5)
    a, b = flat(found), flat(expected)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5)


def spans(found):
    return [(clip.start_seconds, clip.end_seconds, clip.num_frames) for clip in found.clips]
