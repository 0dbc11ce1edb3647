"""The plain loop gives the features that the engine gives: it is the same work, done slowly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.bench.decoding import decoded_frames, plan_jobs
from pipeline.bench.encoding import reference
from pipeline.bench.naive import NaiveLoop
from pipeline.config import Sampling
from pipeline.encode.precision import cosine_similarities, encode_exclusively


@pytest.fixture(scope="module")
def chunks(clips, backbone, one_worker):
    return plan_jobs(clips, Sampling(every=1), backbone.geometry, one_worker).chunks


class Kept(torch.nn.Module):
    """Keeps what a network gives."""

    def __init__(self, module):
        super().__init__()
        self.module, self.values = module, []

    def forward(self, pictures):
        self.values.append(self.module(pictures))
        return self.values[-1]


def test_its_features_are_those_of_the_engine(clips, chunks, backbone, one_worker):
    loop = NaiveLoop(backbone, chunks[:1], stride=1, most=60)
    loop.module = Kept(loop.module)
    assert loop() == 60
    jobs = plan_jobs(clips[:1], Sampling(every=1), backbone.geometry, one_worker)
    batches = decoded_frames(jobs, 60, one_worker)

    ours = encode_exclusively(reference(backbone), batches)
    theirs = torch.cat(loop.module.values).numpy()

    assert theirs.shape == ours.shape == (60, backbone.feature_size)
    assert [len(values) for values in loop.module.values] == [32, 28]
    assert (
        cosine_similarities(ours, theirs).min() > 0.999
    )  # they scale pictures by different kernels


def test_every_video_has_the_same_share_in_whole_batches(chunks, backbone):
    assert NaiveLoop(backbone, chunks, stride=10, most=1000)() == 18  # all of them
    assert NaiveLoop(backbone, chunks, stride=1, most=8)() == 3 * 32


def test_a_stride_leaves_frames_out(chunks, backbone):
    assert NaiveLoop(backbone, chunks, stride=7, most=1000)() == 3 * 9  # 0, 7, …, 56


def test_it_leaves_the_network_as_it_is(chunks, backbone):
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}

    NaiveLoop(backbone, chunks, stride=20, most=2)()

    after = backbone.module.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
