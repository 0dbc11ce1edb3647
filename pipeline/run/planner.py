"""Pack videos into shards: whole short videos together, long videos in chunks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import pairwise

from pipeline.config import RunOptions, Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.process_pool import DecodePool
from pipeline.decode.sampling import SamplePlan, sampling_of
from pipeline.encode.engine import Engine
from pipeline.encode.feature_store import FeatureStore, StoredChunk
from pipeline.encode.preprocess import staged_size
from pipeline.encode.shot_store import ShotStore
from pipeline.errors import MachineError
from pipeline.progress import RunProgress
from pipeline.records import Chunk, DecodeReport, Shard, Video, VideoIndex
from pipeline.run.chunking import key_frame_samples, missing_ranges, split_range
from pipeline.run.indexing import index_ahead
from pipeline.run.session import Session

logger = logging.getLogger(__name__)

FEW_VIDEOS = 4
"""For each decode process: with more, processes find work without any video being split."""
CHUNKS_PER_PROCESS = 3
FIRST_FRAMES = 512
"""Of the first shard, so that the engine soon has work; each next one may hold twice as many."""
FIRST_PIXELS = 10**9
"""Decoded pixels of the first shard, for few samples of long videos."""
CACHED_FACTOR = 2
"""Size limit of shards of cached videos, relative to others: cheap, but all their features are in
memory at once."""
MIN_CHUNK_PIXELS = 5 * 10**8
"""A second or two of decoding; smaller videos are not split for the sake of speed."""
MAX_CHUNK_PIXELS = 2 * 10**10
"""Minutes of decoding: less than the time limit of one attempt, and little to lose."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What the chunks of a shard cost, or may cost together."""

    videos: int = 0
    frames: int = 0
    """Samples."""
    num_bytes: int = 0
    """Of their images as they wait for the engine."""
    pixels: int = 0
    """Decoded for them."""

    def __add__(self, more: Cost) -> Cost:
        return Cost(*map(sum, zip(astuple(self), astuple(more), strict=True)))

    def within(self, limit: Cost) -> bool:
        """Whether no cost exceeds its limit."""
        pairs = zip(astuple(self), astuple(limit), strict=True)
        return all(here <= most for here, most in pairs)


@dataclass
class Planner:
    """
    Plans the shards of one run, and keeps what the driver knows of them.

    Args:
        options: limits of shards, number of decode processes.
        sampling: which frames.
        engine: whose input size decides how much memory a frame takes.
        store: features that need not be computed again.
        pool: reads containers.
        window: shards in flight.
        progress: counts what is done.
        features_only: no shard reads cached features to write rows.
        shot_store: shots that need not be found again; None where none are looked for.
    """

    options: RunOptions
    sampling: Sampling
    engine: Engine
    store: FeatureStore
    pool: DecodePool
    window: int
    progress: RunProgress
    features_only: bool = False
    shot_store: ShotStore | None = None
    failures: list[MachineError] = field(default_factory=list)
    """Of videos whose containers could not be read, for no fault of theirs."""
    not_stored: dict[str, DecodeReport] = field(default_factory=dict)
    """Reports of videos that gave no features, for a reason that may not last, by id."""
    _unencoded: dict[str, int] = field(default_factory=dict)
    """Chunks of long videos that are not encoded yet."""
    _planned_again: set[str] = field(default_factory=set)
    """Videos whose cached features were removed, by id."""

    @classmethod
    def of_session(cls, session: Session, progress: RunProgress) -> Planner:
        """Plan for the resources of a session."""
        return cls(
            session.options,
            session.config.sampling,
            session.engine,
            session.store,
            session.pool,
            session.window,
            progress,
            features_only=session.out is None,
            shot_store=session.shot_store if session.finds_shots else None,
        )

    def plan(self, videos: Sequence[Video]) -> Iterator[Shard]:
        """
        Pack videos into shards, reading containers a little ahead.

        Cached videos come first: they cost neither decoding nor encoding.
        """
        cached = [video for video in videos if self.store.has(video.video_id)]
        without_shots = self._without_shots(cached)
        if without_shots:
            logger.warning(
                "the features of %d videos were stored without their shots: these videos are "
                "decoded once more, and not encoded",
                len(without_shots),
            )
        if not self.features_only:
            again = {video.video_id for video in without_shots}
            yield from self._pack_cached([v for v in cached if v.video_id not in again])
        yield from self._pack_for_shots(without_shots)
        known = {video.video_id for video in cached}
        yield from self._pack([video for video in videos if video.video_id not in known])

    def _without_shots(self, videos: Sequence[Video]) -> list[Video]:
        if self.shot_store is None:
            return []
        return [v for v in videos if lacks_shots(self.store, self.shot_store, v.video_id)]

    def _pack_for_shots(self, videos: Sequence[Video]) -> Iterator[Shard]:
        """Pack videos whose features are stored without shots, all chunks of each together."""
        chunks: list[Chunk] = []
        pixels = 0
        for video, index in self._index(videos):
            if isinstance(index, DecodeReport):  # the file is gone: its rows have no shots
                yield Shard(cached=(video,))
                continue
            stored = self.store.cover(video.video_id)
            total = stored[-1][1]
            chunks += [Chunk(video, index, start, stop, total) for start, stop in stored]
            pixels += _pixels(index)
            if pixels >= FIRST_PIXELS:
                yield Shard(tuple(chunks), shots_only=True)
                chunks, pixels = [], 0
        if chunks:
            yield Shard(tuple(chunks), shots_only=True)

    def plan_again(self, shard: Shard) -> Iterator[Shard] | None:
        """
        Plan the cached videos of a shard that failed, if a damaged file was removed from the store.

        Returns:
            None if no features were removed, or those of a video for the second time.
        """
        removed = {v.video_id for v in shard.cached if not self.store.has(v.video_id)}
        if not removed or removed & self._planned_again:
            return None
        self._planned_again |= removed
        return self.plan(shard.cached)

    def complete(
        self, shard: Shard, stored: Sequence[StoredChunk], not_stored: Mapping[str, DecodeReport]
    ) -> Shard | None:
        """
        Note that a shard is done.

        Args:
            shard: one of `plan`.
            stored: what it added to the feature store, wherever it was processed.
            not_stored: reports of its videos that are not in the store.

        Returns:
            The videos that it completes, now cached ones, to write their rows.
        """
        self.store.add_chunks(stored)
        self.not_stored.update(not_stored)
        if shard.shots_only:
            videos = tuple(dict.fromkeys(chunk.video for chunk in shard.chunks))
            if not self.features_only:
                return Shard(cached=videos)
            self.progress.add(videos_done=len(videos))
            return None
        if not shard.chunks or shard.chunks[0].whole:
            return None
        video = shard.chunks[0].video
        self._unencoded[video.video_id] -= 1
        if self._unencoded[video.video_id]:
            return None
        del self._unencoded[video.video_id]
        if self.features_only:
            self.progress.add(videos_done=1)
            return None
        return Shard(cached=(video,))

    def _index(self, videos: Sequence[Video]) -> Iterator[tuple[Video, VideoIndex | DecodeReport]]:
        """Read containers. A video whose container the machine cannot read is a failure."""
        for video, index in index_ahead(self.pool, videos):
            if isinstance(index, MachineError):
                self.failures.append(index)
            else:
                yield video, index

    def _split_for_parallelism(
        self, videos: Sequence[Video]
    ) -> Iterator[tuple[Video, VideoIndex | DecodeReport, int]]:
        """Give each video with the number of chunks that keeps all decode processes busy."""
        indexed = self._index(videos)
        processes = self.options.decode.num_workers
        if processes == 1 or len(videos) > FEW_VIDEOS * processes:
            yield from ((video, index, 1) for video, index in indexed)
            return
        known = list(indexed)
        total = sum(_divisible_pixels(index) for _, index in known)
        size = max(MIN_CHUNK_PIXELS, total / (CHUNKS_PER_PROCESS * processes))
        for video, index in known:
            yield video, index, max(1, round(_divisible_pixels(index) / size))

    def _pack(self, videos: Sequence[Video]) -> Iterator[Shard]:
        limits = self.options.shards
        limit = Cost(
            limits.max_videos, min(FIRST_FRAMES, limits.max_frames), limits.max_bytes, FIRST_PIXELS
        )
        chunks: list[Chunk] = []
        cost = Cost()
        for video, index, count in self._split_for_parallelism(videos):
            for chunk, more in self._chunks(video, index, count):
                if chunks and (not chunk.whole or not (cost + more).within(limit)):
                    yield Shard(tuple(chunks))
                    chunks, cost = [], Cost()
                    limit = replace(
                        limit,
                        frames=min(2 * limit.frames, limits.max_frames),
                        pixels=min(2 * limit.pixels, MAX_CHUNK_PIXELS),
                    )
                if chunk.whole:
                    chunks.append(chunk)
                    cost += more
                else:
                    yield Shard((chunk,))
        if chunks:
            yield Shard(tuple(chunks))

    def _pack_cached(self, videos: Sequence[Video]) -> Iterator[Shard]:
        limits = self.options.shards
        limit = Cost(CACHED_FACTOR * limits.max_videos, CACHED_FACTOR * limits.max_frames)
        held: list[Video] = []
        cost = Cost()
        for video in videos:
            more = Cost(1, self.store.frames_at_once(video.video_id))
            if held and not (cost + more).within(limit):
                yield Shard(cached=tuple(held))
                held, cost = [], Cost()
            held.append(video)
            cost += more
        if held:
            yield Shard(cached=tuple(held))

    def _chunks(
        self, video: Video, index: VideoIndex | DecodeReport, count: int
    ) -> Iterator[tuple[Chunk, Cost]]:
        """Split one video so that no chunk holds more than a shard may."""
        if isinstance(index, DecodeReport):
            yield Chunk(video, None, 0, 0, 0, report=index), Cost(1)
            return
        plan = SamplePlan(index, sampling_of(index, self.sampling))
        total = plan.num_samples
        backbone = self.engine.backbone
        size = decoded_size(index.height, index.width, backbone.geometry)
        image_bytes = math.prod(staged_size(self.engine, size)) * 3
        limits = self.options.shards
        max_samples = max(1, min(limits.max_frames, limits.max_bytes // image_bytes))
        count = max(count, math.ceil(_divisible_pixels(index) / MAX_CHUNK_PIXELS))
        wanted = min(max_samples, max(1, -(-total // count)))
        key_samples = key_frame_samples(plan, backbone.previous_frames)
        missing = [
            part
            for samples in missing_ranges(self.store.chunks(video.video_id), total)
            for part in pairwise(split_range(samples, wanted, max_samples, key_samples))
        ]
        if missing != [(0, total)]:
            self._unencoded[video.video_id] = len(missing)
        for start, stop in missing:
            context = backbone.previous_frames if start else 0
            chunk = Chunk(video, index, start, stop, total, context)
            samples = stop - start
            pixels = _pixels(index) * samples // max(1, total)
            yield chunk, Cost(1, samples, samples * image_bytes, pixels)


def lacks_shots(store: FeatureStore, shots: ShotStore, video_id: str) -> bool:
    """Whether the features of a video are stored without its shots."""
    if not store.has(video_id) or shots.has(video_id):
        return False
    return any(report.frames_sampled for report in store.reports(video_id))


def _pixels(index: VideoIndex) -> int:
    """Count the pixels that are decoded of a whole video."""
    return len(index.pts) * index.width * index.height


def _divisible_pixels(index: VideoIndex | DecodeReport) -> int:
    """Count the pixels that are decoded of a video that can be split; 0 if it cannot be."""
    return 0 if isinstance(index, DecodeReport) or not index.seekable else _pixels(index)
