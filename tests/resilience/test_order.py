"""Rows do not depend on the order of sources, on batches, shards and workers."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, ShardOptions
from pipeline.run.process import process_videos
from tests.resilience.commands import tables
from tests.videos import spoil, write_images, write_video

IGNORED_COLUMNS = ("decoder", "attempts", "recognizer", "config_id")
"""Columns about how a row was made."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Long and short videos, a variable frame rate, a damaged one, and a folder of images."""
    folder = tmp_path_factory.mktemp("order")
    made = [write_video(folder / f"{n}.mp4", 20 + 9 * n, first=100 * n) for n in range(4)]
    made.append(write_video(folder / "variable.mkv", 6, times=[0, 0.1, 0.5, 0.6, 1.7, 1.8]))
    made.append(spoil(made[3], folder / "damaged.mp4", [20, 30]))
    made.append(write_images(folder / "images", range(1, 20)))
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_recognizer, sources):
    """Run on sources in a given order and with options of speed; return the rows."""

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
        rows = tables(folder, *IGNORED_COLUMNS)
        # the error of a long video is that of one chunk, with the frame counts of this chunk
        rows["videos"].error = rows["videos"].error != ""
        return rows

    return to_rows


@pytest.fixture(scope="module")
def plain(run, sources):
    return run(sources)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 20))]
)
def test_rows_do_not_depend_on_order_and_options(run, plain, sources, seed):
    rng = random.Random(seed)

    noisy = run(
        rng.sample(sources, len(sources)),
        decode=DecodeOptions(workers=rng.randint(1, 3)),
        encode={"batch_size": rng.choice([1, 3, 8, 50])},
        shards=ShardOptions(
            max_frames=rng.choice([5, 17, 1024]),
            max_videos=rng.choice([1, 2, 256]),
            window=rng.choice([1, 2, 4]),
        ),
    )

    for name, rows in plain.items():
        numbers = [column for column in ("score", "scores", "embedding") if column in rows]
        pd.testing.assert_frame_equal(noisy[name].drop(columns=numbers), rows.drop(columns=numbers))
        for column in numbers:
            one = np.hstack(noisy[name][column].dropna().to_list())
            other = np.hstack(rows[column].dropna().to_list())
            np.testing.assert_allclose(one, other, atol=1e-4, err_msg=f"{name}.{column}")
