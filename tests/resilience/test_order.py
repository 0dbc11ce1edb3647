"""Order and noise: whatever is shuffled, cut or counted otherwise, the rows are the same."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, ShardOptions
from pipeline.run.process import process_videos
from tests.resilience.commands import tables
from tests.videos import spoil, write_images, write_video

TOLD = ("decoder", "attempts", "recognizer", "config_id")
"""Columns that say how a row was made, not what is in it."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Videos long and short, of any rate, one damaged, and a folder of images."""
    folder = tmp_path_factory.mktemp("order")
    made = [write_video(folder / f"{n}.mp4", 20 + 9 * n, first=100 * n) for n in range(4)]
    made.append(write_video(folder / "variable.mkv", 6, times=[0, 0.1, 0.5, 0.6, 1.7, 1.8]))
    made.append(spoil(made[3], folder / "damaged.mp4", [20, 30]))
    made.append(write_images(folder / "images", range(1, 20)))
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_recognizer, sources):
    """Run on sources in an order and with options of speed, and give the rows."""

    def to_rows(order, **options):
        folder = tmp_path_factory.mktemp("out")
        given = {"decode": DecodeOptions(workers=1), **options}
        encode = {"precision": "float32", **given.pop("encode", {})}
        chosen = RunOptions(
            recognizer=str(tiny_recognizer),
            frames=True,
            embeddings=True,
            image_fps=12,
            encode=EncodeOptions(**encode),
            **given,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "order cache"))
            process_videos([str(path) for path in order], folder, chosen)
        rows = tables(folder, *TOLD)
        # a long video tells the error of one of its chunks, which counts the frames of that one
        rows["videos"].error = rows["videos"].error != ""
        return rows

    return to_rows


@pytest.fixture(scope="module")
def plain(run, sources):
    return run(sources)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 20))]
)
def test_the_rows_are_the_same(run, plain, sources, seed):
    chance = random.Random(seed)

    noisy = run(
        chance.sample(sources, len(sources)),
        decode=DecodeOptions(workers=chance.randint(1, 3)),
        encode={"batch_size": chance.choice([1, 3, 8, 50])},
        shards=ShardOptions(
            max_frames=chance.choice([5, 17, 1024]),
            max_videos=chance.choice([1, 2, 256]),
            window=chance.choice([1, 2, 4]),
        ),
    )

    for name, rows in plain.items():
        numbers = [column for column in ("score", "scores", "embedding") if column in rows]
        pd.testing.assert_frame_equal(noisy[name].drop(columns=numbers), rows.drop(columns=numbers))
        for column in numbers:
            one = np.hstack(noisy[name][column].dropna().to_list())
            other = np.hstack(rows[column].dropna().to_list())
            np.testing.assert_allclose(one, other, atol=1e-4, err_msg=f"{name}.{column}")
