"""The plain loop gives the features that the engine gives: it is the same work, done slowly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.bench.decoding import decoded_frames, plan_jobs
from pipeline.bench.encoding import Frames, encode, reference
from pipeline.bench.naive import NaiveLoop
from pipeline.config import Sampling
from pipeline.encode.precision import cosines


@pytest.fixture(scope="module")
def segments(clips, backbone, one_worker):
    return plan_jobs(clips, Sampling(every=1), backbone.geometry, one_worker).segments


class Kept(torch.nn.Module):
    """Keeps what a network gives."""

    def __init__(self, module):
        super().__init__()
        self.module, self.values = module, []

    def forward(self, pictures):
        self.values.append(self.module(pictures))
        return self.values[-1]


def test_its_features_are_those_of_the_engine(clips, segments, backbone, one_worker):
    loop = NaiveLoop(backbone, segments[:1], stride=1, most=40)
    loop.module = Kept(loop.module)
    assert loop() == 40
    jobs = plan_jobs(clips[:1], Sampling(every=1), backbone.geometry, one_worker)
    batches = decoded_frames(jobs, 40, one_worker)

    ours = encode(reference(backbone), Frames(tuple(batches)))
    theirs = torch.cat(loop.module.values).numpy()

    assert theirs.shape == ours.shape == (40, backbone.feature_size)
    assert [len(values) for values in loop.module.values] == [32, 8]
    assert cosines(ours, theirs).min() > 0.999  # they scale pictures by different kernels


def test_videos_follow_each_other_until_there_are_enough(segments, backbone):
    assert NaiveLoop(backbone, segments, stride=10, most=1000)() == 18
    assert NaiveLoop(backbone, segments, stride=10, most=8)() == 8


def test_a_stride_leaves_frames_out(segments, backbone):
    assert NaiveLoop(backbone, segments, stride=7, most=1000)() == 3 * 9  # 0, 7, …, 56


def test_it_leaves_the_network_as_it_is(segments, backbone):
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}

    NaiveLoop(backbone, segments, stride=20, most=2)()

    after = backbone.module.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
