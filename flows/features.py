"""
The flow that fills the feature store, for commands that read features: evaluate, diagnose, novelty.

It runs the same tasks, with the same retries, as the flow of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar

from prefect import flow

from flows.tasks import as_tasks
from pipeline.progress import RunProgress
from pipeline.records import DecodeReport, Video
from pipeline.run.features import ensure_features
from pipeline.run.session import Session

Needed = tuple[Session, Sequence[Video], RunProgress]
NEEDED: ContextVar[Needed] = ContextVar("needed")
"""A session without a results folder, and the videos whose features are needed."""


@flow(name="ensure-features", persist_result=False)
def _ensure_features() -> Mapping[str, DecodeReport]:
    return ensure_features_as_tasks(*NEEDED.get())


def ensure_features_in_flow(
    session: Session, videos: Sequence[Video], progress: RunProgress
) -> Mapping[str, DecodeReport]:
    """Run `ensure_features` as a flow run, each shard as a task."""
    token = NEEDED.set((session, videos, progress))
    try:
        return _ensure_features()
    finally:
        NEEDED.reset(token)


def ensure_features_as_tasks(
    session: Session, videos: Sequence[Video], progress: RunProgress
) -> Mapping[str, DecodeReport]:
    """Run `ensure_features`, each shard as a task of the current flow run."""
    with as_tasks(session) as submit:
        return ensure_features(session, videos, progress, submit)
