"""
Make sure that the features of videos are stored: decode and encode what is missing.

    with open_session(None, options, videos=videos) as session:
        problems = ensure_features(session, videos)

`run` writes rows from the features; training, evaluation, diagnosis and novelty read them from the
store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.progress import RunProgress
from pipeline.records import DecodeReport, Video
from pipeline.run.planner import Planner, lacks_shots
from pipeline.run.process import Submit, drive, in_threads
from pipeline.run.resume import discard_features, outdated_features
from pipeline.run.session import Session


def missing_features(session: Session, videos: Sequence[Video]) -> list[Video]:
    """
    List the videos whose features have to be computed.

    They are not, or not completely, in the store, or were decoded differently, or their shots are
    missing.
    """
    outdated = outdated_features(session.store, videos)
    return [
        video
        for video in videos
        if video.video_id in outdated
        or not session.store.has(video.video_id)
        or (session.finds_shots and lacks_shots(session.store, session.shot_store, video.video_id))
    ]


def ensure_features(
    session: Session,
    videos: Sequence[Video],
    progress: RunProgress | None = None,
    submit: Submit | None = None,
) -> Mapping[str, DecodeReport]:
    """
    Decode and encode the videos that are not in the feature store of a session.

    Args:
        session: opened without a results folder.
        videos: whose features are needed.
        progress: counts what is done.
        submit: starts a shard; in threads of this process by default.

    Returns:
        By video id, the reports of videos that gave no features and are not in the store, since
        the reason may not last: a time limit, a size limit, a machine without memory.

    Raises:
        Exception: a shard failed in all attempts; all others are stored.
    """
    assert session.out is None
    if submit is None:
        with in_threads(session) as submit:
            return ensure_features(session, videos, progress, submit)
    progress = progress or RunProgress()
    discard_features(session, outdated_features(session.store, videos))
    missing = missing_features(session, videos)
    progress.add(videos_total=len(videos), videos_skipped=len(videos) - len(missing))
    planner = Planner.of_session(session, progress)
    failures = drive(planner, planner.plan(missing), submit)
    if failures:
        raise failures[0]
    return planner.not_stored
