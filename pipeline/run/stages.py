"""
The four stages of a shard, each a function of the session and of what the stage before gave.

    decode → encode → recognize → write

Each may be tried again: it changes nothing but files that are written completely or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.anomaly.model import NoveltyScorer
from pipeline.encode.encoder import encode_frames
from pipeline.encode.feature_store import StoredChunk
from pipeline.encode.shot_store import FoundShots
from pipeline.recognition import recognize as recognition
from pipeline.records import NOT_STORED, DecodeReport, FrameFeatures, Shard, Video, merge_reports
from pipeline.results.rows import VideoRows
from pipeline.results.tables import write_rows
from pipeline.run.session import Session
from pipeline.run.shard_decoder import Decoded


@dataclass(frozen=True, slots=True)
class Encoded:
    """The features of a shard, and where they were stored."""

    features: tuple[FrameFeatures, ...] = ()
    stored: tuple[StoredChunk, ...] = ()


def decode(session: Session, shard: Shard) -> Decoded:
    """Decode the chunks of a shard, each in a process of its own."""
    return session.decoder.decode(shard)


def encode(session: Session, decoded: Decoded) -> Encoded:
    """Encode the frames of a shard, and write their features and shots to the store."""
    if decoded.shard.shots_only:
        store_shots(session, decoded, [chunk.video.video_id for chunk in decoded.shard.chunks])
        return Encoded()
    features = encode_frames(session.engine, decoded.batches, session.engine_lock)
    size = session.config.feature_size
    for chunk in decoded.shard.chunks:
        if chunk.report is not None:  # the container could not be read
            features.append(FrameFeatures.empty(chunk.video.video_id, size, chunk.report))
    kept = [f for f in features if not (f.whole and f.report.status in NOT_STORED)]
    # first: features without shots would be decoded again
    store_shots(session, decoded, [part.video_id for part in kept])
    stored = session.store.write(kept) if kept else []
    return Encoded(tuple(features), tuple(stored))


def store_shots(session: Session, decoded: Decoded, keep: Sequence[str]) -> None:
    """Store the shots that were found while a shard was decoded."""
    found = [
        FoundShots(
            batch.chunk.video.video_id,
            batch.chunk.start,
            batch.chunk.stop,
            batch.chunk.num_samples,
            batch.shots,
        )
        for batch in decoded.batches
        if batch.shots is not None
    ]
    if found:
        session.shot_store.write(found, set(keep))


def recognize(session: Session, shard: Shard, features: Sequence[FrameFeatures]) -> list[VideoRows]:
    """Label the videos of a shard. Long videos wait until all their chunks are encoded."""
    if shard.cached:
        return _recognize(session, [_read(session, video) for video in shard.cached])
    by_id = {part.video_id: part for part in features}
    whole = [by_id[c.video.video_id] for c in shard.chunks if c.whole]
    videos = [chunk.video for chunk in shard.chunks if chunk.whole]
    return _recognize(
        session,
        [(video, f.report, iter([f])) for video, f in zip(videos, whole, strict=True)],
    )


def _read(session: Session, video: Video) -> tuple[Video, DecodeReport, Iterator[FrameFeatures]]:
    """Read a video from the feature store."""
    report = merge_reports(session.store.reports(video.video_id))
    return video, report, session.store.stream(video.video_id)


def _recognize(
    session: Session, videos: Sequence[tuple[Video, DecodeReport, Iterator[FrameFeatures]]]
) -> list[VideoRows]:
    shots = {
        video.video_id: found
        for video, report, _ in videos
        if report.frames_sampled and (found := session.shots(video.video_id)) is not None
    }
    if session.recognizer is None:
        return [VideoRows(v, report, None, shots.get(v.video_id)) for v, report, _ in videos]
    with_frames = [
        (video.video_id, parts, report.duration_seconds or 0.0)
        for video, report, parts in videos
        if report.frames_sampled and report.duration_seconds != 0  # a still shows no motion
    ]
    make_scorer = partial(NoveltyScorer, session.novelty) if session.novelty else None
    recognized = recognition.recognize(
        session.recognizer, with_frames, session.config.windows, make_scorer, shots
    )
    by_id = {found.video_id: found for found in recognized}
    return [
        VideoRows(video, report, by_id.get(video.video_id), shots.get(video.video_id))
        for video, report, _ in videos
    ]


def write(session: Session, rows: Sequence[VideoRows]) -> int:
    """Write the rows of a shard, which completes it. Returns the number of clips."""
    if not rows or session.out is None:
        return 0
    return write_rows(session.out, rows, session.row_options)
