"""
The stages and what they share: decode processes, encoder, feature store, recognizer.

    plan → decode → encode → recognize → write

`pipeline.run.load` makes a `Session`, `pipeline.run.process` drives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.anomaly.model import (
    FeatureSpec,
    NoveltyModel,
    NoveltyScorer,
    require_features,
)
from pipeline.config import ClipWindows, RunOptions, Sampling, ShardOptions, fingerprint
from pipeline.decode.process_pool import DecodePool
from pipeline.encode.encoder import encode_frames
from pipeline.encode.engine import Engine, describe_engine
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.feature_store import FeatureStore, features_folder, features_id
from pipeline.encode.precision import PrecisionCheck
from pipeline.machine import available_memory_bytes
from pipeline.progress import RunProgress
from pipeline.recognition.recognize import Recognition, recognize
from pipeline.recognition.recognizer import Recognizer
from pipeline.records import (
    TRANSIENT,
    DecodeReport,
    FrameFeatures,
    Shard,
    Video,
    merge_reports,
)
from pipeline.results.rows import RowOptions, VideoRows
from pipeline.results.tables import write_rows
from pipeline.run.planner import Planner
from pipeline.run.shard_decoder import Decoded, ShardDecoder

ROWS_VERSION = 2
"""Raised when the same options give other rows than before."""


@dataclass(frozen=True, slots=True)
class Models:
    """What a pipeline is made of."""

    recognizer: Recognizer | None
    engine: Engine
    novelty: NoveltyModel | None = None
    pool: DecodePool | None = None
    """None starts its own."""
    evidence: PrecisionCheck | None = None
    """How the precision of the engine was chosen, where that was left to the pictures."""


MEMORY_SHARE = 0.25
"""Of the memory that is free, that pictures in flight may take."""


def fitting_window(limits: ShardOptions, workers: int) -> int:
    """
    Tell how many shards are in flight: one that is encoded, and one for each decode process.

    Long videos are shards of one chunk each, so fewer would leave processes without work.
    """
    affordable = int(MEMORY_SHARE * available_memory_bytes()) // limits.max_bytes
    return max(2, min(workers + 1, affordable))


class Session:
    """
    The stages and what they share: decode processes, encoder, feature store, recognizer.

    Use `pipeline.run.load.open_session`.
    """

    def __init__(self, out: Path, options: RunOptions, parts: Models) -> None:
        recognizer, novelty, engine = parts.recognizer, parts.novelty, parts.engine
        self.out, self.options, self.novelty = out, options, novelty
        self.engine, self.evidence = engine, parts.evidence
        sampling = options.sampling or (recognizer.sampling if recognizer else None)
        assert sampling is not None
        self.sampling: Sampling = sampling
        # it takes the times of samples from its sampling, so it must know which one was used
        self.recognizer = recognizer and replace(recognizer, sampling=sampling)
        self.windows = options.clips or (recognizer.clips if recognizer else ClipWindows())
        backbone = engine.backbone
        self.features_id = features_id(backbone.identity, self.sampling, engine.precision)
        self.config_id = fingerprint(
            ROWS_VERSION,
            self.features_id,
            recognizer.identity if recognizer else None,
            self.windows,
            options.frames,
            options.embeddings,
            novelty.identity if novelty else None,
        )
        if novelty is not None:
            require_features(novelty.features, self.feature_spec, novelty.folder)
        stores = features_folder(out, options.features)
        self.store = FeatureStore(stores / self.features_id, backbone.feature_size)
        self.store.remove_abandoned_files()
        self.progress = RunProgress()
        self.engine_lock = EngineLock()
        self.pool = parts.pool or DecodePool(options.decode)
        self.window = options.shards.window or fitting_window(
            options.shards, options.decode.num_workers
        )
        self.shard_decoder = ShardDecoder(self.pool, engine, sampling, keep=self.window)
        self.planner = Planner(
            out, options, sampling, engine, self.store, self.pool, self.row_options, self.progress
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decode processes and give back the memory of pictures."""
        self.pool.close()
        self.shard_decoder.close()

    @property
    def feature_spec(self) -> FeatureSpec:
        """What a novelty model must have been fitted to."""
        backbone = self.engine.backbone
        return FeatureSpec(
            backbone=backbone.name,
            weights_hash=backbone.weights_hash,
            identity=backbone.identity,
            feature_size=backbone.feature_size,
            context=backbone.previous_frames,
            precision=self.engine.precision,
            sampling=self.sampling,
        )

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
        """Decode the chunks of a shard, each in a process of its own."""
        with self.progress.timed("decode"):
            decoded = self.shard_decoder.decode(shard)
            self.progress.add(
                frames_decoded=sum(b.report.frames_decoded for b in decoded.batches),
                bytes_pictures=sum(b.images.nbytes for b in decoded.batches),
            )
            return decoded

    def encode(self, decoded: Decoded) -> list[FrameFeatures]:
        """Encode the frames of a shard, and keep the features."""
        with self.progress.timed("encode"):
            features = encode_frames(self.engine, decoded.batches, self.engine_lock)
            self.progress.add(
                frames_encoded=sum(len(f.values) for f in features),
                bytes_features=sum(f.values.nbytes for f in features),
            )
            for chunk in decoded.shard.chunks:
                if chunk.report is not None:
                    features.append(self._nothing(chunk.video, chunk.report))
            kept = [f for f in features if not (f.whole and f.report.status in TRANSIENT)]
            if kept:
                self.store.write(kept)
            return features

    def _nothing(self, video: Video, report: DecodeReport) -> FrameFeatures:
        return FrameFeatures.empty(video.video_id, self.engine.backbone.feature_size, report)

    def release(self, decoded: Decoded) -> None:
        """Give the memory of decoded frames to the next shard."""
        self.shard_decoder.release(decoded)

    def recognize(self, shard: Shard, features: Sequence[FrameFeatures]) -> list[VideoRows]:
        """Label the videos of a shard. Long videos wait until all their chunks are encoded."""
        with self.progress.timed("recognize"):
            if shard.cached:
                return self._recognize_stored(shard.cached)
            by_id = {part.video_id: part for part in features}
            whole = [chunk for chunk in shard.chunks if chunk.whole]
            videos = [
                (s.video, by_id[s.video.video_id].report, [by_id[s.video.video_id]]) for s in whole
            ]
            return self._rows([(video, report, iter(parts)) for video, report, parts in videos])

    def _recognize_stored(self, videos: Sequence[Video]) -> list[VideoRows]:
        found = []
        for video in videos:
            report = merge_reports(self.store.reports(video.video_id))
            self.progress.add(frames_reused=report.frames_sampled)
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
        make_scorer = partial(NoveltyScorer, self.novelty) if self.novelty else None
        recognized = recognize(self.recognizer, asked, self.windows, make_scorer)
        said: dict[str, Recognition] = {found.video_id: found for found in recognized}
        return [VideoRows(video, report, said.get(video.video_id)) for video, report, _ in videos]

    def write(self, rows: Sequence[VideoRows]) -> int:
        """Write the rows of a shard; with that it is done."""
        with self.progress.timed("write"):
            if not rows:
                return 0
            clips = write_rows(self.out, rows, self.row_options)
            statuses = [row.report.status for row in rows]
            partial_ = statuses.count("partial")
            self.progress.add(
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
            "novelty_id": self.novelty.identity if self.novelty else None,
            **describe_engine(self.engine),
            "precision_evidence": self.evidence.to_json() if self.evidence else None,
        }
