"""
What is already done in a results folder, and what has to be done again.

`find_unfinished` only reads; `discard_outdated` deletes rows; `resume` does both.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.decode.versions import (
    decoding_version,
    describe_reasons,
    reason_to_decode_again,
)
from pipeline.encode.feature_store import FeatureStore
from pipeline.records import Video
from pipeline.results.deleted_files import file_exists
from pipeline.results.tables import (
    FinishedVideo,
    drop_rows,
    finished_videos,
    read_reports,
    remove_incomplete,
)
from pipeline.run.session import Session
from pipeline.storage import printable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What is left to do."""

    videos: tuple[Video, ...]
    """Videos without rows. Files of earlier runs with the same content are their copies."""
    outdated: frozenset[str] = frozenset()
    """Ids of videos whose rows are deleted: the file has changed, is gone, or is retried."""
    retried: frozenset[str] = frozenset()
    """Ids of videos that are decoded again."""
    deleted: tuple[str, ...] = ()
    """Paths of rows that are kept although their files no longer exist."""


def resume(session: Session, videos: Sequence[Video]) -> list[Video]:
    """Prepare the results folder of a session. Returns the videos that have no rows."""
    out, config_id = session.out, session.config.config_id
    assert out is not None
    remove_incomplete(out, session.row_options)
    rows = finished_videos(out, config_id)
    changed = outdated_rows(session, videos)
    unfinished = find_unfinished(rows, videos, session.options.retry, changed)
    discard_outdated(session, unfinished)
    outdated = outdated_features(session.store, unfinished.videos)
    discard_features(session, outdated, also=changed)
    if unfinished.deleted:
        logger.warning(
            "rows of %d files that no longer exist, such as %s: clipline forget %s drops them",
            len(unfinished.deleted),
            unfinished.deleted[0],
            out,
        )
    return list(unfinished.videos)


def outdated_rows(session: Session, videos: Sequence[Video]) -> dict[str, str]:
    """Find the videos with rows that are decoded differently now: the reason by video id."""
    assert session.out is not None
    by_id = {video.video_id: video for video in videos}
    reports = read_reports(session.out, session.config.config_id, decoding_version())
    found = {
        video_id: reason_to_decode_again(by_id[video_id], [report])
        for video_id, report in reports
        if video_id in by_id
    }
    return {video_id: reason for video_id, reason in found.items() if reason}


def outdated_features(store: FeatureStore, videos: Sequence[Video]) -> dict[str, str]:
    """Find the videos with features that are decoded differently now: the reason by video id."""
    found = {
        video.video_id: reason_to_decode_again(video, store.stored_reports(video.video_id))
        for video in videos
    }
    return {video_id: reason for video_id, reason in found.items() if reason}


def discard_features(
    session: Session, outdated: Mapping[str, str], also: Mapping[str, str] | None = None
) -> None:
    """
    Delete features that are decoded differently now, and log how many videos that concerns.

    Args:
        session: of whose feature store.
        outdated: reasons by video id.
        also: reasons for videos whose rows were deleted; their features may not be stored.
    """
    session.store.forget(outdated)
    session.shot_store.forget(outdated)
    reasons = {**(also or {}), **outdated}
    if reasons:
        logger.warning(describe_reasons(reasons.values()))


def discard_outdated(session: Session, unfinished: Unfinished) -> None:
    """Delete rows that are out of date, and the features of videos that are decoded again."""
    assert session.out is not None
    session.store.forget(unfinished.retried)
    session.shot_store.forget(unfinished.retried)
    if unfinished.outdated:
        drop_rows(session.out, session.config.config_id, set(unfinished.outdated))


def find_unfinished(
    rows: Sequence[FinishedVideo],
    videos: Sequence[Video],
    retry: Collection[str] = (),
    changed: Collection[str] = (),
) -> Unfinished:
    """
    Compare the videos of a run with the rows of earlier ones.

    Args:
        rows: of `videos`, of the same configuration.
        videos: of the run.
        retry: statuses whose videos are decoded again.
        changed: ids of videos that are decoded differently now.
    """
    wanted = {printable(place): v.video_id for v in videos for place in _locations(v)}
    ids = {video.video_id for video in videos} | set(wanted.values())
    places: dict[str, set[str]] = defaultdict(set)
    elsewhere: dict[str, list[tuple[str, str]]] = defaultdict(list)
    split = _folders_of_sequences(wanted)
    again, retried, absent = set(), set(), []
    for row in rows:
        places[row.video_id].add(row.path)
        other_content = row.path in wanted and wanted[row.path] != row.video_id
        gone = row.path not in wanted and (row.path in split or not file_exists(row.path))
        if gone and row.status != "missing":
            absent.append(row)
        if row.status in retry and row.video_id in ids:
            retried.add(row.video_id)
        elif other_content or gone or row.video_id in changed:
            again.add(row.video_id)
        if row.path not in wanted and not gone:
            elsewhere[row.video_id].append((row.video, row.path))
    again |= retried
    finished = {
        video.video_id
        for video in videos
        if {printable(place) for place in _locations(video)} <= places[video.video_id]
        and video.video_id not in again
    }
    found_now = {*wanted, *split}
    outdated = {
        row.video_id
        for row in rows
        if row.video_id not in finished
        and (row.video_id in ids or row.path in found_now or _can_be_listed_now(row))
    }
    deleted = tuple(row.path for row in absent if row.video_id not in outdated)
    left = [_with_copies(v, elsewhere[v.video_id]) for v in videos if v.video_id not in finished]
    return Unfinished(tuple(left), frozenset(outdated), frozenset(retried), deleted)


def _folders_of_sequences(places: Collection[str]) -> set[str]:
    """Return the folders that were one sequence, and hold several now."""
    folders = {os.path.dirname(place) for place in places if "*" in os.path.basename(place)}
    return folders - set(places)


def _with_copies(video: Video, copies: Sequence[tuple[str, str]]) -> Video:
    return replace(video, copies=(*video.copies, *copies))


def _can_be_listed_now(row: FinishedVideo) -> bool:
    """Whether a row is of a folder that could not be listed before."""
    return (
        row.status == "unreadable"
        and os.path.isdir(row.path)
        and os.access(row.path, os.R_OK, effective_ids=True)
    )


def _locations(video: Video) -> list[str]:
    return [video.location, *(location for _, location in video.copies)]
