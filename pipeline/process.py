"""
The data's way, composed: plan → decode → encode → recognize → write.

    from pipeline.process import open_pipeline, run
    with open_pipeline(Path("OUT"), RunOptions()) as pipeline:
        run(pipeline, find_videos(["videos"]))

`run` works from a plain Python prompt; the flows run the same stages as Prefect tasks.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import ClipWindows, RunOptions, Sampling, fingerprint
from pipeline.decode.arena import Arena, ArenaPool, aligned
from pipeline.decode.attempts import Room, capacity_of, decode_segment
from pipeline.decode.pictures import delivered_size
from pipeline.decode.pool import DecodePool
from pipeline.encode.backbone import Backbone, load_backbone, require_same
from pipeline.encode.engines import Engine, Placement, choose_device, describe, make_engine
from pipeline.encode.features import FeatureStore, encode_frames
from pipeline.encode.pairs import load_pairs
from pipeline.errors import RecognizerError
from pipeline.files import printable
from pipeline.plan import Planner
from pipeline.records import (
    TRANSIENT,
    DecodeReport,
    FrameBatch,
    FrameFeatures,
    Segment,
    Shard,
    Video,
    merge_reports,
)
from pipeline.results import RowOptions, VideoRows, write_rows
from pipeline.tally import Tally
from pipeline.temporal.recognition import Recognition, recognize
from pipeline.temporal.recognizer import BACKBONE_WEIGHTS, Recognizer, load_recognizer

logger = logging.getLogger(__name__)

ROWS_VERSION = 1
"""Raised when the same options give other rows than before."""


@dataclass(frozen=True)
class Decoded:
    """The frames of a shard, and the memory that they lie in."""

    shard: Shard
    batches: tuple[FrameBatch, ...]
    arena: Arena | None


class Pipeline:
    """
    The stages and what they share: decode processes, encoder, feature store, recognizer.

    Use `open_pipeline`.
    """

    def __init__(
        self, out: Path, options: RunOptions, recognizer: Recognizer | None, engine: Engine
    ) -> None:
        self.out, self.options = out, options
        self.engine = engine
        sampling = options.sampling or (recognizer.sampling if recognizer else None)
        assert sampling is not None
        self.sampling: Sampling = sampling
        # it takes the times of samples from its sampling, so it must know which one was used
        self.recognizer = recognizer and replace(recognizer, sampling=sampling)
        self.windows = options.clips or (recognizer.clips if recognizer else ClipWindows())
        backbone = engine.backbone
        self.features_id = fingerprint(
            "features", backbone.identity, self.sampling, engine.precision
        )
        self.config_id = fingerprint(
            ROWS_VERSION,
            self.features_id,
            recognizer.identity if recognizer else None,
            self.windows,
            options.frames,
            options.embeddings,
        )
        folder = Path(options.features).expanduser() if options.features else out / "features"
        self.store = FeatureStore(folder / self.features_id, backbone.feature_size)
        self.tally = Tally()
        self.pool = DecodePool(options.decode)
        self.arenas = ArenaPool(keep=options.shards.window)
        self._engine_lock = threading.Lock()
        self.planner = Planner(
            out, options, sampling, backbone, self.store, self.pool, self.row_options, self.tally
        )

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decode processes and give back the shared memory."""
        self.pool.close()
        self.arenas.close()

    @property
    def row_options(self) -> RowOptions:
        """How rows are written."""
        return RowOptions(
            labels=self.recognizer.labels if self.recognizer else (),
            recognizer=self.recognizer.name if self.recognizer else "",
            config_id=self.config_id,
            frames=self.options.frames and self.recognizer is not None,
            embeddings=self.options.embeddings,
        )

    def decode(self, shard: Shard) -> Decoded:
        """Decode the segments of a shard, each in a process of its own."""
        with self.tally.timed("decode"):
            rooms, arena = self._rooms(shard)
            futures = [
                self.pool.submit(
                    partial(
                        decode_segment,
                        segment=segment,
                        sampling=self.sampling,
                        geometry=self.engine.backbone.geometry,
                        room=room,
                    )
                )
                for segment, room in rooms
            ]
            batches = tuple(future.result() for future in futures)
            self.tally.add(frames_decoded=sum(b.report.frames_decoded for b in batches))
            return Decoded(shard, batches, arena)

    def _rooms(self, shard: Shard) -> tuple[list[tuple[Segment, Room]], Arena | None]:
        """Find a place in shared memory for every segment."""
        places, offset = [], 0
        for segment in shard.segments:
            if segment.index is None:
                continue
            size = delivered_size(
                segment.index.height, segment.index.width, self.engine.backbone.geometry
            )
            capacity = capacity_of(segment)
            places.append((segment, offset, capacity))
            offset += aligned(capacity * size[0] * size[1] * 3)
        if not places:
            return [], None
        arena = self.arenas.take(offset)
        return [(segment, Room(arena, at, capacity)) for segment, at, capacity in places], arena

    def encode(self, decoded: Decoded) -> list[FrameFeatures]:
        """Encode the frames of a shard, and keep the features."""
        with self.tally.timed("encode"):
            features = encode_frames(self.engine, decoded.batches, self._engine_lock)
            self.tally.add(frames_encoded=sum(len(f.values) for f in features))
            for segment in decoded.shard.segments:
                if segment.report is not None:
                    features.append(self._nothing(segment.video, segment.report))
            kept = [f for f in features if not (f.whole and f.report.status in TRANSIENT)]
            if kept:
                self.store.write(kept)
            return features

    def _nothing(self, video: Video, report: DecodeReport) -> FrameFeatures:
        return FrameFeatures.nothing(video.video_id, self.engine.backbone.feature_size, report)

    def release(self, decoded: Decoded) -> None:
        """Give the memory of decoded frames to the next shard."""
        if decoded.arena is not None:
            self.arenas.give_back(decoded.arena)

    def recognize(self, shard: Shard, features: Sequence[FrameFeatures]) -> list[VideoRows]:
        """Label the videos of a shard. Long videos wait until all their segments are encoded."""
        with self.tally.timed("recognize"):
            if shard.stored:
                return self._recognize_stored(shard.stored)
            by_id = {part.video_id: part for part in features}
            whole = [segment for segment in shard.segments if segment.whole]
            videos = [
                (s.video, by_id[s.video.video_id].report, [by_id[s.video.video_id]]) for s in whole
            ]
            return self._rows([(video, report, iter(parts)) for video, report, parts in videos])

    def _recognize_stored(self, videos: Sequence[Video]) -> list[VideoRows]:
        found = []
        for video in videos:
            report = merge_reports(self.store.reports(video.video_id))
            self.tally.add(frames_reused=report.frames_sampled)
            found.append((video, report, self.store.stream(video.video_id)))
        return self._rows(found)

    def _rows(
        self, videos: Sequence[tuple[Video, DecodeReport, Iterator[FrameFeatures]]]
    ) -> list[VideoRows]:
        if self.recognizer is None:
            return [VideoRows(video, report, None) for video, report, _ in videos]
        asked = [
            (video.video_id, parts, report.duration_seconds or 0.0)
            for video, report, parts in videos
            if report.frames_sampled
        ]
        said: dict[str, Recognition] = {
            found.video_id: found for found in recognize(self.recognizer, asked, self.windows)
        }
        return [VideoRows(video, report, said.get(video.video_id)) for video, report, _ in videos]

    def write(self, rows: Sequence[VideoRows]) -> int:
        """Write the rows of a shard; with that it is done."""
        with self.tally.timed("write"):
            if not rows:
                return 0
            clips = write_rows(self.out, rows, self.row_options)
            statuses = [row.report.status for row in rows]
            partial_ = statuses.count("partial")
            self.tally.add(
                clips=clips,
                videos_done=len(rows),
                videos_partial=partial_,
                videos_failed=len(rows) - partial_ - statuses.count("ok"),
            )
            return clips

    def describe(self) -> dict[str, Any]:
        """Give what `run.json` says of the configuration."""
        backbone = self.engine.backbone
        return {
            "recognizer": self.recognizer.name if self.recognizer else None,
            "recognizer_id": self.recognizer.identity if self.recognizer else None,
            "labels": list(self.recognizer.labels) if self.recognizer else [],
            "sampling": {"fps": self.sampling.fps, "every": self.sampling.every},
            "clips": {
                "seconds": self.windows.seconds,
                "stride_seconds": self.windows.stride_seconds,
            },
            "backbone": backbone.name,
            "backbone_weights": backbone.weights_hash,
            "feature_size": backbone.feature_size,
            "features_id": self.features_id,
            **describe(self.engine),
        }


@dataclass(frozen=True)
class Stages:
    """The four stages, as plain calls or wrapped as tasks."""

    decode: Callable[[Shard], Decoded]
    encode: Callable[[Decoded], list[FrameFeatures]]
    recognize: Callable[[Shard, Sequence[FrameFeatures]], list[VideoRows]]
    write: Callable[[Sequence[VideoRows]], int]


def process_shard(pipeline: Pipeline, shard: Shard, stages: Stages | None = None) -> int:
    """Take one shard the whole way. Returns the clips written."""
    stages = stages or Stages(pipeline.decode, pipeline.encode, pipeline.recognize, pipeline.write)
    features: list[FrameFeatures] = []
    if shard.segments:
        decoded = stages.decode(shard)
        try:
            features = stages.encode(decoded)
        finally:
            pipeline.release(decoded)
    return stages.write(stages.recognize(shard, features))


class Running(Protocol):
    """A shard that was submitted: a future of `concurrent.futures` or of Prefect."""

    def add_done_callback(self, fn: Callable[[Any], None], /) -> None:
        """Call a function with this future once it is done."""

    def result(self) -> Any:
        """Give the result, or raise what went wrong."""


Submit = Callable[[Shard], Running]


def drive(pipeline: Pipeline, shards: Iterator[Shard], submit: Submit) -> list[Exception]:
    """
    Keep a window of shards in flight until all are done.

    A shard that fails for good does not stop the others.

    Returns:
        What went wrong, one error a failed shard.
    """
    done: queue.SimpleQueue[tuple[Shard, Running]] = queue.SimpleQueue()
    failures: list[Exception] = []
    flying = 0
    more = True
    while more or flying:
        while more and flying < pipeline.options.shards.window:
            shard = next(shards, None)
            if shard is None:
                more = False
                break
            _launch(submit, shard, done)
            flying += 1
        if not flying:
            continue
        shard, future = done.get()
        flying -= 1
        try:
            future.result()
        except (
            Exception
        ) as error:  # whatever a stage could not overcome: reported, and the rest goes on
            logger.error("a shard failed: %r", error)
            failures.append(error)
            continue
        following = pipeline.planner.finished(shard)
        if following is not None:
            _launch(submit, following, done)
            flying += 1
    return failures


def _launch(submit: Submit, shard: Shard, done: queue.SimpleQueue[tuple[Shard, Running]]) -> None:
    future = submit(shard)
    future.add_done_callback(lambda _: done.put((shard, future)))


def run(pipeline: Pipeline, videos: Sequence[Video]) -> list[Exception]:
    """
    Process videos without Prefect, in threads of this process.

    Returns:
        What went wrong, one error a failed shard; a bad video is no error but a row.
    """
    with ThreadPoolExecutor(pipeline.options.shards.window) as threads:
        return drive(
            pipeline,
            pipeline.planner.plan(videos),
            lambda shard: threads.submit(process_shard, pipeline, shard),
        )


def summarize(
    pipeline: Pipeline, sources: Sequence[str], failures: Sequence[Exception], run_id: str | None
) -> dict[str, Any]:
    """Give what `run.json` says of a run."""
    tally = pipeline.tally
    counts = {name: value for name, value in vars(tally).items() if isinstance(value, int)}
    return {
        "config_id": pipeline.config_id,
        "configuration": pipeline.describe(),
        "sources": [printable(source) for source in sources],
        "options": pipeline.options.to_json(),
        "counts": counts,
        "failures": [repr(error) for error in failures],
        "flow_run_id": run_id,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "timings_seconds": {
            "run": round(time.monotonic() - tally.started, 3),
            **{name: round(value, 3) for name, value in tally.seconds.items()},
        },
        "versions": {name: _version(name) for name in VERSIONED},
    }


VERSIONED = (
    "clipline",
    "torch",
    "timm",
    "openvino",
    "av",
    "decord2",
    "opencv-python-headless",
    "prefect",
    "pandas",
    "pyarrow",
)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_parts(options: RunOptions) -> tuple[Recognizer | None, Backbone]:
    """
    Load the recognizer and its backbone, and check that they belong together.

    Raises:
        RecognizerError: the backbone has other weights than the recognizer was made with.
    """
    weights = Path(options.weights).expanduser() if options.weights else None
    if options.recognizer is None:
        assert options.backbone is not None
        backbone = load_backbone(
            options.backbone, weights=weights, tap=options.tap, grid=options.grid
        )
        return None, backbone
    recognizer = load_recognizer(options.recognizer)
    spec = recognizer.backbone
    if spec.name == "pairs":
        assert recognizer.folder is not None
        backbone = load_pairs(recognizer.folder / BACKBONE_WEIGHTS)
    else:
        name = options.backbone or spec.name
        backbone = load_backbone(name, weights=weights, tap=spec.tap, grid=spec.grid)
    require_same(spec.weights_hash, backbone.weights_hash, f"backbone of {recognizer.name}")
    if backbone.feature_size != spec.feature_size:
        raise RecognizerError(
            f"{recognizer.name} wants {spec.feature_size} features a frame, "
            f"its backbone gives {backbone.feature_size}"
        )
    return recognizer, backbone


def open_pipeline(out: Path, options: RunOptions, cache: Path | None = None) -> Pipeline:
    """
    Load everything that a run needs, and start the decode processes.

    Args:
        out: results folder.
        options: of the run.
        cache: folder for converted networks; the user's cache by default.

    Raises:
        PipelineError: something the options name is not there or does not fit.
    """
    recognizer, backbone = load_parts(options)
    device = choose_device(options.encode)
    precision = options.encode.precision
    if precision == "auto":
        precision = "float32"
    engine = make_engine(
        backbone, Placement(device, precision), options.encode, cache or cache_folder()
    )
    return Pipeline(out, options, recognizer, engine)


def cache_folder() -> Path:
    """Give the user's cache folder for converted networks."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "clipline"
