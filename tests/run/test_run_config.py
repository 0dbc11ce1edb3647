"""What decides the rows of a run is resolved once, and travels to other processes as plain JSON."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest

from pipeline.config import ClipWindows, DecodeOptions, RunOptions, Sampling, ShardOptions
from pipeline.errors import ConfigMismatch
from pipeline.progress import RunProgress
from pipeline.results.tables import load
from pipeline.run.load import open_session
from pipeline.run.planner import Planner
from pipeline.run.process import drive, process_shard, run
from pipeline.run.resume import resume
from pipeline.run.run_config import RunConfig
from pipeline.sources.discovery import find_videos
from tests.videos import write_video

CONFIG = RunConfig(
    sampling=Sampling(fps=8),
    windows=ClipWindows(1.0),
    backbone="resnet18",
    backbone_id="0123",
    feature_size=512,
    precision="float32",
    recognizer="mine",
    recognizer_id="4567",
    labels=("hug", "push"),
)


def test_json_gives_it_back():
    assert RunConfig.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG


@pytest.mark.parametrize(
    ("change", "features", "rows"),
    [
        ({"sampling": Sampling(fps=4)}, True, True),
        ({"precision": "bfloat16"}, True, True),
        ({"backbone_id": "89ab"}, True, True),
        ({"features_version": 2}, True, True),
        ({"windows": ClipWindows(2.0)}, False, True),
        ({"recognizer_id": "cdef"}, False, True),
        ({"novelty_id": "cdef"}, False, True),
        ({"frames": True}, False, True),
        ({"embeddings": True}, False, True),
        ({"rows_version": 9}, False, True),
        ({"recognizer": "renamed"}, False, False),
    ],
    ids=str,
)
def test_ids_change_with_what_they_identify(change, features, rows):
    other = replace(CONFIG, **change)

    assert (other.features_id != CONFIG.features_id) == features
    assert (other.config_id != CONFIG.config_id) == rows


def test_a_difference_is_refused_with_both_values():
    other = replace(CONFIG, precision="bfloat16", recognizer_id="89ab")

    with pytest.raises(
        ConfigMismatch,
        match=r"precision: planned float32, loaded bfloat16; recognizer_id: planned 4567, loaded 8",
    ):
        CONFIG.require_equal(other)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "short.mp4", 30)
    write_video(tmp_path / "videos" / "long.mp4", 90, first=200)
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    return tmp_path


@pytest.fixture
def options(tiny_recognizer):
    return RunOptions(
        recognizer=str(tiny_recognizer),
        decode=DecodeOptions(workers=1),
        shards=ShardOptions(max_frames=10),
    )


def test_a_session_refuses_another_config(folder, options, engine_cache):
    with open_session(folder / "out", options, engine_cache) as session:
        planned = replace(session.config, backbone_id="0123")

    with pytest.raises(ConfigMismatch, match="backbone_id: planned 0123"):
        open_session(folder / "out", options, engine_cache, config=planned)


def test_the_precision_is_that_of_the_config(folder, options, engine_cache):
    """Another process does not measure it again: it could find another one."""
    with open_session(folder / "out", options, engine_cache) as session:
        planned = session.config
    assert options.encode.precision == "auto"

    with open_session(folder / "out", options, engine_cache, config=planned) as session:
        assert session.engine.precision == planned.precision
        assert session.precision_check is None


def process_elsewhere(out, options, config, cache, shard):
    """Process one shard in this process, which shares nothing with the driver but files."""
    options = RunOptions.from_json(json.loads(options))
    config = RunConfig.from_json(json.loads(config))
    with open_session(out, options, cache, config=config) as session:
        return process_shard(session, shard)


def test_shards_of_another_process_give_the_same_rows(folder, options, engine_cache):
    """Also a long video: the driver learns from the results where its chunks are stored."""
    videos = find_videos([str(folder / "videos")])
    with open_session(folder / "here", options, engine_cache, videos=videos) as session:
        assert run(session, videos) == []

    out, progress = folder / "there", RunProgress()
    with open_session(out, options, engine_cache, videos=videos) as session:
        given = (
            out,
            json.dumps(options.to_json()),
            json.dumps(session.config.to_json()),
            engine_cache,
        )
        with ProcessPoolExecutor(1, get_context("spawn")) as elsewhere:
            planner = Planner.of_session(session, progress)
            shards = planner.plan(resume(session, videos))
            failures = drive(
                planner, shards, lambda shard: elsewhere.submit(process_elsewhere, *given, shard)
            )
        config_id = session.config.config_id
        assert session.engine_lock.busy_seconds == 0  # nothing was encoded here

    assert failures == []
    assert progress.videos_done == 3
    assert progress.frames_encoded == 8 + 24
    assert set(progress.seconds) == {"decode", "encode", "recognize", "write"}
    for table in ("clips", "segments", "videos"):
        here, there = (
            load(folder / name, table, config_id).sort_values("video", ignore_index=True)
            for name in ("here", "there")
        )
        assert len(here) > 0
        assert here.astype(str).equals(there.astype(str)), table


def test_results_can_be_sent(folder, options, engine_cache):
    videos = find_videos([str(folder / "videos")])
    with open_session(folder / "out", options, engine_cache) as session:
        shard = next(Planner.of_session(session, RunProgress()).plan(videos))
        result = process_shard(session, shard)

    assert pickle.loads(pickle.dumps(result)) == result
