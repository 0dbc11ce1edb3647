"""
What is already done in a results folder, and what has to be done again.

`find_unfinished` only reads; `discard_outdated` deletes rows; `resume` does both.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pipeline.records import Video
from pipeline.results.tables import (
    FinishedVideo,
    drop_rows,
    finished_videos,
    remove_incomplete,
)
from pipeline.run.session import Session
from pipeline.storage import printable


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What is left to do."""

    videos: tuple[Video, ...]
    """Videos without rows. Files of earlier runs with the same content are their copies."""
    outdated: frozenset[str] = frozenset()
    """Ids of videos whose rows are deleted: the file has changed, is gone, or is retried."""
    retried: frozenset[str] = frozenset()
    """Ids of videos that are decoded again."""


def resume(session: Session, videos: Sequence[Video]) -> list[Video]:
    """Prepare the results folder of a session. Returns the videos that have no rows."""
    out, config_id = session.out, session.config.config_id
    assert out is not None
    remove_incomplete(out, session.row_options)
    rows = finished_videos(out, config_id)
    unfinished = find_unfinished(rows, videos, session.options.retry)
    discard_outdated(session, unfinished)
    return list(unfinished.videos)


def discard_outdated(session: Session, unfinished: Unfinished) -> None:
    """Delete rows that are out of date, and the features of videos that are decoded again."""
    assert session.out is not None
    session.store.forget(unfinished.retried)
    if unfinished.outdated:
        drop_rows(session.out, session.config.config_id, set(unfinished.outdated))


def find_unfinished(
    rows: Sequence[FinishedVideo], videos: Sequence[Video], retry: Collection[str] = ()
) -> Unfinished:
    """
    Compare the videos of a run with the rows of earlier ones.

    Args:
        rows: of `videos`, of the same configuration.
        videos: of the run.
        retry: statuses whose videos are decoded again.
    """
    wanted = {printable(place): v.video_id for v in videos for place in _locations(v)}
    ids = {video.video_id for video in videos} | set(wanted.values())
    places: dict[str, set[str]] = defaultdict(set)
    elsewhere: dict[str, list[tuple[str, str]]] = defaultdict(list)
    again, retried = set(), set()
    for row in rows:
        places[row.video_id].add(row.path)
        changed = row.path in wanted and wanted[row.path] != row.video_id
        gone = row.path not in wanted and not os.path.exists(row.path)
        if row.status in retry and row.video_id in ids:
            retried.add(row.video_id)
        elif changed or gone:
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
    outdated = {
        row.video_id
        for row in rows
        if row.video_id not in finished
        and (row.video_id in ids or row.path in wanted or _can_be_listed_now(row))
    }
    left = tuple(
        replace(video, copies=(*video.copies, *elsewhere[video.video_id]))
        for video in videos
        if video.video_id not in finished
    )
    return Unfinished(left, frozenset(outdated), frozenset(retried))


def _can_be_listed_now(row: FinishedVideo) -> bool:
    """Whether a row is of a folder that could not be listed before."""
    return (
        row.status == "unreadable"
        and os.path.isdir(row.path)
        and os.access(row.path, os.R_OK, effective_ids=True)
    )


def _locations(video: Video) -> list[str]:
    return [video.location, *(location for _, location in video.copies)]
