"""Cut what is not finished into shards: whole short videos together, long videos in segments."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

from pipeline.config import RunOptions, Sampling
from pipeline.decode.attempts import index_video
from pipeline.decode.pictures import delivered_size
from pipeline.decode.pool import FIRST, DecodePool
from pipeline.decode.sampling import SamplePlan
from pipeline.encode.backbone import Backbone
from pipeline.encode.features import FeatureStore
from pipeline.errors import VideoError
from pipeline.files import printable
from pipeline.records import DecodeReport, Segment, Shard, Video, VideoIndex
from pipeline.results import RowOptions, done_videos, drop_rows, sweep
from pipeline.tally import Tally

LOOK_AHEAD = 128
"""Videos whose containers are read before they are planned."""


@dataclass(frozen=True)
class Planner:
    """Knows what is done, what is stored, and how much a shard may hold."""

    out: Path
    options: RunOptions
    sampling: Sampling
    backbone: Backbone
    store: FeatureStore
    pool: DecodePool
    rows: RowOptions
    tally: Tally
    _waiting: dict[str, int] = field(default_factory=dict)
    """Segments that are not encoded yet, of long videos."""

    def plan(self, videos: Sequence[Video]) -> Iterator[Shard]:
        """
        Cut what is not finished into shards, reading containers a little ahead.

        Videos whose features are stored come first: they cost neither decoding nor encoding.
        """
        sweep(self.out, self.rows)
        todo = self._unfinished(videos)
        self.tally.add(videos_total=len(videos), videos_skipped=len(videos) - len(todo))
        stored = [video for video in todo if self.store.has(video.video_id)]
        for start in range(0, len(stored), self.options.shards.max_videos):
            yield Shard(stored=tuple(stored[start : start + self.options.shards.max_videos]))
        fresh = [video for video in todo if not self.store.has(video.video_id)]
        yield from self._pack(self._indexed(fresh))

    def _unfinished(self, videos: Sequence[Video]) -> list[Video]:
        """Drop rows that no longer hold, and give the videos that have no rows."""
        wanted = {printable(place): v.video_id for v in videos for place in _locations(v)}
        done = done_videos(self.out, self.rows.config_id)
        places: dict[str, set[str]] = defaultdict(set)
        again = set()
        for row in done:
            places[row.video_id].add(row.path)
            changed = row.path in wanted and wanted[row.path] != row.video_id
            if row.status in self.options.retry:
                again.add(row.video_id)
                self.store.forget(row.video_id)
            elif changed or (row.path not in wanted and not os.path.exists(row.path)):
                again.add(row.video_id)
        finished = {
            video.video_id
            for video in videos
            if {printable(place) for place in _locations(video)} <= places[video.video_id]
            and video.video_id not in again
        }
        ours = {video.video_id for video in videos} | set(wanted.values())
        stale = {
            row.video_id
            for row in done
            if row.video_id not in finished and (row.video_id in ours or row.path in wanted)
        }
        if stale:
            drop_rows(self.out, self.rows.config_id, stale)
        return [video for video in videos if video.video_id not in finished]

    def _indexed(
        self, videos: Sequence[Video]
    ) -> Iterator[tuple[Video, VideoIndex | DecodeReport]]:
        ahead: deque[tuple[Video, Future[VideoIndex]]] = deque()
        for video in videos:
            ahead.append((video, self.pool.submit(partial(index_video, video=video), FIRST)))
            if len(ahead) >= LOOK_AHEAD:
                yield self._index_result(*ahead.popleft())
        while ahead:
            yield self._index_result(*ahead.popleft())

    def _index_result(
        self, video: Video, future: Future[VideoIndex]
    ) -> tuple[Video, VideoIndex | DecodeReport]:
        try:
            return video, future.result()
        except VideoError as error:
            return video, DecodeReport(error.status, str(error))

    def _pack(self, indexed: Iterator[tuple[Video, VideoIndex | DecodeReport]]) -> Iterator[Shard]:
        limits = self.options.shards
        segments: list[Segment] = []
        frames = size = 0
        for video, index in indexed:
            for segment, num_bytes in self._segments(video, index):
                count = segment.stop - segment.start
                full = (
                    frames + count > limits.max_frames
                    or size + num_bytes > limits.max_bytes
                    or len(segments) >= limits.max_videos
                )
                if segments and (full or not segment.whole):
                    yield Shard(tuple(segments))
                    segments, frames, size = [], 0, 0
                if segment.whole:
                    segments.append(segment)
                    frames, size = frames + count, size + num_bytes
                else:
                    yield Shard((segment,))
        if segments:
            yield Shard(tuple(segments))

    def _segments(
        self, video: Video, index: VideoIndex | DecodeReport
    ) -> Iterator[tuple[Segment, int]]:
        """Cut one video so that no segment holds more than a shard may; give its size in bytes."""
        if isinstance(index, DecodeReport):
            yield Segment(video, None, 0, 0, 0, report=index), 0
            return
        total = SamplePlan(index, self.sampling).num_samples
        height, width = delivered_size(index.height, index.width, self.backbone.geometry)
        frame_bytes = height * width * 3
        limits = self.options.shards
        most = max(1, min(limits.max_frames, limits.max_bytes // frame_bytes))
        pieces = -(-total // most)
        edges = [number * total // pieces for number in range(pieces + 1)]
        stored = set(self.store.segments(video.video_id))
        missing = [edge for edge in pairwise(edges) if edge not in stored]
        if pieces > 1:
            self._waiting[video.video_id] = len(missing)
        for start, stop in missing:
            context = self.backbone.context if start else 0
            segment = Segment(video, index, start, stop, total, context)
            yield segment, (stop - start) * frame_bytes

    def finished(self, shard: Shard) -> Shard | None:
        """Note that a shard is done; give the long video that this completes, to be recognized."""
        self.tally.add(shards=1)
        if not shard.segments or shard.segments[0].whole:
            return None
        video = shard.segments[0].video
        self._waiting[video.video_id] -= 1
        if self._waiting[video.video_id]:
            return None
        del self._waiting[video.video_id]
        return Shard(stored=(video,))


def _locations(video: Video) -> list[str]:
    return [video.location, *(location for _, location in video.copies)]
