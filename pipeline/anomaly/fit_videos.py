"""
From normal videos to a novelty model.

    with open_session(out, RunOptions()) as pipeline:
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
from pipeline.run.session import Session

logger = logging.getLogger(__name__)


def fit_to_videos(session: Session, videos: Sequence[Video], seed: int = 0) -> NoveltyModel:
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
    material = [_material(session, video) for video in videos if _frames(session, video)]
    if len(material) < len(videos):
        logger.warning(
            "%d of %d videos have no frames and are left out",
            len(videos) - len(material),
            len(videos),
        )
    if not material:
        raise SourceError(f"none of {len(videos)} normal videos has a frame: see clipline doctor")
    cut = session.recognizer.cut if session.recognizer else None
    model = fit_novelty(material, session.feature_spec, cut, seed)
    made_with = session.recognizer.name if session.recognizer else None
    return replace(model, notes={**model.notes, "recognizer": made_with})


def _frames(session: Session, video: Video) -> int:
    if not session.store.has(video.video_id):
        return 0
    return merge_reports(session.store.reports(video.video_id)).frames_sampled


def _material(session: Session, video: Video) -> Material:
    read = partial(session.store.stream, video.video_id)
    return Material(video.video_id, _frames(session, video), read)
