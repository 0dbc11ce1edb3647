"""
From normal videos to a novelty model.

    with open_pipeline(out, RunOptions()) as pipeline:
        model = fit_to_videos(pipeline, find_videos(["normal"]))
    save_novelty(model, Path("normal-model"))
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pipeline.anomaly.fit import Material, fit_novelty
from pipeline.anomaly.model import NoveltyModel
from pipeline.errors import SourceError
from pipeline.records import Video, merge_reports
from pipeline.run.session import Pipeline

logger = logging.getLogger(__name__)


def fit_to_videos(pipeline: Pipeline, videos: Sequence[Video], seed: int = 0) -> NoveltyModel:
    """
    Fit a novelty model to videos whose features are stored.

    Args:
        pipeline: that has encoded them. Where it has a recognizer that finds cuts, forecasts begin
            anew at each.
        videos: what is normal; those that could not be decoded are left out.
        seed: of what is left to chance.

    Raises:
        SourceError: too little of the videos can be used.
    """
    material = [_material(pipeline, video) for video in videos if _frames(pipeline, video)]
    if len(material) < len(videos):
        logger.warning(
            "%d of %d videos have no frames and are left out",
            len(videos) - len(material),
            len(videos),
        )
    if not material:
        raise SourceError(f"none of {len(videos)} normal videos has a frame: see clipline doctor")
    cut = pipeline.recognizer.cut if pipeline.recognizer else None
    model = fit_novelty(material, pipeline.feature_spec, cut, seed)
    made_with = pipeline.recognizer.name if pipeline.recognizer else None
    return replace(model, notes={**model.notes, "recognizer": made_with})


def _frames(pipeline: Pipeline, video: Video) -> int:
    if not pipeline.store.has(video.video_id):
        return 0
    return merge_reports(pipeline.store.reports(video.video_id)).frames_sampled


def _material(pipeline: Pipeline, video: Video) -> Material:
    read = partial(pipeline.store.stream, video.video_id)
    return Material(video.video_id, _frames(pipeline, video), read)
