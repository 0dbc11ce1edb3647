"""The naive loop computes the same features as the engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.bench.decoding import decode_frames, plan_jobs
from pipeline.bench.encoding import reference
from pipeline.config import Sampling
from pipeline.encode.precision import cosine_similarities, encode_exclusively
from tests.benchmarks.naive import NaiveLoop


@pytest.fixture(scope="module")
def locations(clips):
    return [video.location for video in clips]


class Recorder(torch.nn.Module):
    """Records the outputs of a network."""

    def __init__(self, module):
        super().__init__()
        self.module, self.values = module, []

    def forward(self, images):
        self.values.append(self.module(images))
        return self.values[-1]


def test_its_features_are_those_of_the_engine(clips, locations, backbone, one_worker):
    loop = NaiveLoop(backbone, locations[:1], stride=1, max_frames=60)
    loop.module = Recorder(loop.module)
    assert loop() == 60
    jobs = plan_jobs(clips[:1], Sampling(every=1), backbone.geometry, one_worker)
    batches = decode_frames(jobs, 60, one_worker)

    ours = encode_exclusively(reference(backbone), batches)
    theirs = torch.cat(loop.module.values).numpy()

    assert theirs.shape == ours.shape == (60, backbone.feature_size)
    assert [len(values) for values in loop.module.values] == [32, 28]
    assert cosine_similarities(ours, theirs).min() > 0.999  # they resize with different kernels


def test_every_video_gives_the_same_number_of_whole_batches(locations, backbone):
    assert NaiveLoop(backbone, locations, stride=10, max_frames=1000)() == 18  # all of them
    assert NaiveLoop(backbone, locations, stride=1, max_frames=8)() == 3 * 32


def test_a_stride_skips_frames(locations, backbone):
    assert NaiveLoop(backbone, locations, stride=7, max_frames=1000)() == 3 * 9  # 0, 7, …, 56


def test_the_weights_are_unchanged(locations, backbone):
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}

    NaiveLoop(backbone, locations, stride=20, max_frames=2)()

    after = backbone.module.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
