"""Build the dataset of labelled videos, for the commands that read labels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import RunOptions
    from pipeline.encode.feature_store import FeatureStore
    from pipeline.training.annotations import Annotations
    from pipeline.training.build_dataset import LabelledDataset


def gather_clips(
    labelled: Annotations, options: RunOptions, *, quiet: bool
) -> tuple[LabelledDataset, FeatureStore]:
    """Build the dataset of labelled clips; features that are missing are computed and stored."""
    from flows.cli.console import watch
    from flows.server.launch import open_with_features
    from pipeline.training.build_dataset import build_dataset, find_labelled_videos
    from pipeline.training.feature_source import FeatureSource

    videos = find_labelled_videos(labelled, options.image_fps)
    show = partial(watch, quiet=quiet)
    with open_with_features(options, videos, show) as (session, not_stored):
        source = FeatureSource.of_session(session, not_stored)
        return build_dataset(labelled, source, videos), session.store
