"""Cut what is not finished into shards: whole short videos together, long videos in chunks."""

from __future__ import annotations

import math
import os
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipeline.config import RunOptions, Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.fallback import index_video
from pipeline.decode.process_pool import INDEX_PRIORITY, DecodePool
from pipeline.decode.sampling import SamplePlan
from pipeline.encode.engine import Engine
from pipeline.encode.feature_store import FeatureStore
from pipeline.encode.preprocess import staged_size
from pipeline.errors import VideoError
from pipeline.progress import RunProgress
from pipeline.records import Chunk, DecodeReport, Integers, Shard, Video, VideoIndex
from pipeline.results.rows import RowOptions
from pipeline.results.tables import FinishedVideo, drop_rows, finished_videos, remove_incomplete
from pipeline.storage import printable

LOOK_AHEAD = 128
"""Videos whose containers are read before they are planned."""
LOOK_AHEAD_BYTES = 4 << 30
"""Size of them: what is read long before it is decoded has left the page cache by then."""
FEW_VIDEOS = 4
"""For each decode process: with more, processes find work without any video being cut."""
PIECES_A_PROCESS = 3
FIRST_FRAMES = 512
"""Of the first shard, so that the engine soon has work; each next one may hold twice as many."""
FIRST_PIXELS = 10**9
"""That are decoded for the first shard, likewise: of few samples of long videos."""
STORED_TIMES = 2
"""As much as of other videos a shard may hold of those whose features are stored: each costs less,
but what is read of all of them is in memory at once."""
LEAST_PIECE_PIXELS = 5 * 10**8
"""A second or two of decoding; what is smaller is not cut for the sake of speed."""
MOST_PIECE_PIXELS = 2 * 10**10
"""Minutes of decoding: not to reach the time that one attempt may take, nor to lose more of them
where a run is broken off."""

Indexed = tuple[Video, VideoIndex | DecodeReport, int]
"""A video, what its container says, and the pieces in which it had best be decoded."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the chunks of a shard cost, or may cost together."""

    videos: int = 0
    frames: int = 0
    """Samples."""
    num_bytes: int = 0
    """Of their pictures as they wait for the engine."""
    pixels: int = 0
    """That are decoded for them."""

    def __add__(self, more: Load) -> Load:
        return Load(*map(sum, zip(astuple(self), astuple(more), strict=True)))

    def within(self, most: Load) -> bool:
        """Whether nothing is more than it may be."""
        pairs = zip(astuple(self), astuple(most), strict=True)
        return all(here <= limit for here, limit in pairs)


@dataclass(frozen=True)
class Planner:
    """Knows what is done, what is stored, and how much a shard may hold."""

    out: Path
    options: RunOptions
    sampling: Sampling
    engine: Engine
    store: FeatureStore
    pool: DecodePool
    rows: RowOptions
    progress: RunProgress
    _waiting: dict[str, int] = field(default_factory=dict)
    """Chunks that are not encoded yet, of long videos."""

    def plan(self, videos: Sequence[Video]) -> Iterator[Shard]:
        """
        Cut what is not finished into shards, reading containers a little ahead.

        Videos whose features are stored come first: they cost neither decoding nor encoding.
        """
        remove_incomplete(self.out, self.rows)
        todo = self._unfinished(videos)
        self.progress.add(videos_total=len(videos), videos_skipped=len(videos) - len(todo))
        stored = [video for video in todo if self.store.has(video.video_id)]
        yield from self._pack_stored(stored)
        fresh = [video for video in todo if not self.store.has(video.video_id)]
        yield from self._pack(self._spread(fresh))

    def _unfinished(self, videos: Sequence[Video]) -> list[Video]:
        """Drop rows that no longer lock_results, and give the videos that have no rows."""
        wanted = {printable(place): v.video_id for v in videos for place in _locations(v)}
        ours = {video.video_id for video in videos} | set(wanted.values())
        done = finished_videos(self.out, self.rows.config_id)
        places: dict[str, set[str]] = defaultdict(set)
        elsewhere: dict[str, list[tuple[str, str]]] = defaultdict(list)
        again, retried = set(), set()
        for row in done:
            places[row.video_id].add(row.path)
            changed = row.path in wanted and wanted[row.path] != row.video_id
            gone = row.path not in wanted and not os.path.exists(row.path)
            if row.status in self.options.retry and row.video_id in ours:
                retried.add(row.video_id)
            elif changed or gone:
                again.add(row.video_id)
            if row.path not in wanted and not gone:
                elsewhere[row.video_id].append((row.video, row.path))
        self.store.forget(retried)
        again |= retried
        finished = {
            video.video_id
            for video in videos
            if {printable(place) for place in _locations(video)} <= places[video.video_id]
            and video.video_id not in again
        }
        stale = {
            row.video_id
            for row in done
            if row.video_id not in finished
            and (row.video_id in ours or row.path in wanted or _opened(row))
        }
        if stale:
            drop_rows(self.out, self.rows.config_id, stale)
        # a file of an earlier run with the same content keeps its rows: as those of a copy
        return [
            replace(video, copies=(*video.copies, *elsewhere[video.video_id]))
            for video in videos
            if video.video_id not in finished
        ]

    def _indexed(
        self, videos: Sequence[Video]
    ) -> Iterator[tuple[Video, VideoIndex | DecodeReport]]:
        ahead: deque[tuple[Video, Future[VideoIndex]]] = deque()
        for video in videos:
            ahead.append(
                (video, self.pool.submit(partial(index_video, video=video), INDEX_PRIORITY))
            )
            while (
                len(ahead) >= LOOK_AHEAD or sum(v.size_bytes for v, _ in ahead) > LOOK_AHEAD_BYTES
            ):
                yield self._index_result(*ahead.popleft())
        while ahead:
            yield self._index_result(*ahead.popleft())

    def _spread(self, videos: Sequence[Video]) -> Iterator[Indexed]:
        """Give every video with the number of pieces in which it keeps all processes at work."""
        indexed = self._indexed(videos)
        processes = self.options.decode.num_workers
        if processes == 1 or len(videos) > FEW_VIDEOS * processes:
            yield from ((video, index, 1) for video, index in indexed)
            return
        known = list(indexed)
        total = sum(_divisible_pixels(index) for _, index in known)
        piece = max(LEAST_PIECE_PIXELS, total / (PIECES_A_PROCESS * processes))
        for video, index in known:
            yield video, index, max(1, round(_divisible_pixels(index) / piece))

    def _index_result(
        self, video: Video, future: Future[VideoIndex]
    ) -> tuple[Video, VideoIndex | DecodeReport]:
        try:
            return video, future.result()
        except VideoError as error:
            return video, DecodeReport(error.status, str(error))

    def _pack(self, indexed: Iterator[Indexed]) -> Iterator[Shard]:
        limits = self.options.shards
        most = Load(
            limits.max_videos, min(FIRST_FRAMES, limits.max_frames), limits.max_bytes, FIRST_PIXELS
        )
        chunks: list[Chunk] = []
        held = Load()
        for video, index, pieces in indexed:
            for chunk, load in self._chunks(video, index, pieces):
                if chunks and (not chunk.whole or not (held + load).within(most)):
                    yield Shard(tuple(chunks))
                    chunks, held = [], Load()
                    most = replace(
                        most,
                        frames=min(2 * most.frames, limits.max_frames),
                        pixels=min(2 * most.pixels, MOST_PIECE_PIXELS),
                    )
                if chunk.whole:
                    chunks.append(chunk)
                    held += load
                else:
                    yield Shard((chunk,))
        if chunks:
            yield Shard(tuple(chunks))

    def _pack_stored(self, videos: Sequence[Video]) -> Iterator[Shard]:
        limits = self.options.shards
        most = Load(STORED_TIMES * limits.max_videos, STORED_TIMES * limits.max_frames)
        held: list[Video] = []
        load = Load()
        for video in videos:
            more = Load(1, self.store.frames_at_once(video.video_id))
            if held and not (load + more).within(most):
                yield Shard(cached=tuple(held))
                held, load = [], Load()
            held.append(video)
            load += more
        if held:
            yield Shard(cached=tuple(held))

    def _chunks(
        self, video: Video, index: VideoIndex | DecodeReport, pieces: int
    ) -> Iterator[tuple[Chunk, Load]]:
        """Cut one video so that no chunk holds more than a shard may."""
        if isinstance(index, DecodeReport):
            yield Chunk(video, None, 0, 0, 0, report=index), Load(1)
            return
        plan = SamplePlan(index, self.sampling)
        total = plan.num_samples
        backbone = self.engine.backbone
        size = decoded_size(index.height, index.width, backbone.geometry)
        picture_bytes = math.prod(staged_size(self.engine, size)) * 3
        limits = self.options.shards
        most = max(1, min(limits.max_frames, limits.max_bytes // picture_bytes))
        pieces = max(pieces, math.ceil(_divisible_pixels(index) / MOST_PIECE_PIXELS))
        wanted = min(most, max(1, -(-total // pieces)))
        missing = [
            part
            for gap in gaps(self.store.chunks(video.video_id), total)
            for part in pairwise(
                cut(gap, wanted, most, key_samples(plan, backbone.previous_frames))
            )
        ]
        if missing != [(0, total)]:
            self._waiting[video.video_id] = len(missing)
        for start, stop in missing:
            context = backbone.previous_frames if start else 0
            chunk = Chunk(video, index, start, stop, total, context)
            count = stop - start
            pixels = _pixels(index) * count // max(1, total)
            yield chunk, Load(1, count, count * picture_bytes, pixels)

    def finished(self, shard: Shard) -> Shard | None:
        """Note that a shard is done; give the long video that this completes, to be recognized."""
        self.progress.add(shards=1)
        if not shard.chunks or shard.chunks[0].whole:
            return None
        video = shard.chunks[0].video
        self._waiting[video.video_id] -= 1
        if self._waiting[video.video_id]:
            return None
        del self._waiting[video.video_id]
        return Shard(cached=(video,))


def _pixels(index: VideoIndex) -> int:
    """Tell how many pixels must be decoded of a whole video."""
    return len(index.pts) * index.width * index.height


def _divisible_pixels(index: VideoIndex | DecodeReport) -> int:
    """Tell how many pixels must be decoded of a video that can be started in the middle."""
    return 0 if isinstance(index, DecodeReport) or not index.seekable else _pixels(index)


def gaps(stored: Sequence[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """
    Give the ranges of samples that lie between chunks which follow each other.

    Args:
        stored: chunks, by their starts; of those that overlap the first counts.
        total: samples of the video.
    """
    found, end = [], 0
    for start, stop in stored:
        if start > end:
            found.append((end, start))
        if start >= end:
            end = stop
    return [*found, (end, total)] if end < total or not stored else found


def key_samples(plan: SamplePlan, context: int) -> Integers:
    """
    Give the samples before which a video is best cut.

    A piece is decoded from the key frame before its first sample, or before the context of that:
    where both lie behind one key frame, nothing is decoded twice.
    """
    return np.unique(np.searchsorted(plan.frame_indices(), plan.index.key_frames)) + context


def cut(gap: tuple[int, int], size: int, most: int, keys: Integers) -> list[int]:
    """
    Cut a range of samples into pieces of about one size.

    Args:
        gap: the range.
        size: samples wanted a piece.
        most: samples that a piece may have.
        keys: where it is best cut, ascending.

    Returns:
        The edges, those of the range included.
    """
    start, stop = gap
    edges = [start]
    while stop - start > size:
        aim = start + -(-(stop - start) // -(-(stop - start) // size))
        near = keys[(keys > start + (aim - start) // 2) & (keys <= min(start + most, stop - 1))]
        if not len(near) and stop - start <= min(most, size * 3 // 2):
            break  # smaller pieces would save less than it takes to decode up to the second
        start = int(near[np.abs(near - aim).argmin()]) if len(near) else aim
        edges.append(start)
    return [*edges, stop]


def _opened(row: FinishedVideo) -> bool:
    """Whether a row tells of a folder that could not be listed, and now it can."""
    return (
        row.status == "unreadable"
        and os.path.isdir(row.path)
        and os.access(row.path, os.R_OK, effective_ids=True)
    )


def _locations(video: Video) -> list[str]:
    return [video.location, *(location for _, location in video.copies)]
