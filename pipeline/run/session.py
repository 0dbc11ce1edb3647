"""
The resources of a run in one process: decode processes, models, feature store, memory.

`pipeline.run.load.open_session` makes a `Session`; `pipeline.run.process` gives it shards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from pipeline.anomaly.model import FeatureSpec, NoveltyModel, require_features
from pipeline.config import RunOptions, Sampling, ShardOptions
from pipeline.decode.process_pool import DecodePool
from pipeline.decode.shot_assembly import assemble_shots
from pipeline.encode.engine import Engine, describe_engine
from pipeline.encode.engine_lock import EngineLock
from pipeline.encode.feature_store import FeatureStore, features_folder
from pipeline.encode.precision import PrecisionCheck
from pipeline.encode.shot_store import Shots, ShotStore
from pipeline.machine import available_memory_bytes
from pipeline.recognition.recognizer import Recognizer
from pipeline.results.rows import RowOptions
from pipeline.run.run_config import RunConfig
from pipeline.run.shard_decoder import ShardDecoder

MEMORY_SHARE = 0.25
"""Of the memory that is free, that frames in flight may take."""


@dataclass(frozen=True, slots=True)
class Models:
    """The networks of a run."""

    engine: Engine
    recognizer: Recognizer | None = None
    """None computes features only."""
    novelty: NoveltyModel | None = None


def max_shards_in_flight(limits: ShardOptions, workers: int) -> int:
    """
    Choose how many shards are in flight: one that is encoded, and one for each decode process.

    Long videos are shards of one chunk each, so fewer would leave processes without work.
    """
    affordable = int(MEMORY_SHARE * available_memory_bytes()) // limits.max_bytes
    return max(2, min(workers + 1, affordable))


class Session:
    """
    The resources of a run in one process, open until the end of a `with` block.

    Args:
        out: results folder; None computes features only and writes no rows.
        options: of the run.
        config: what decides the rows.
        models: the networks.
        pool: the decode processes; closed with the session.
        precision_check: how the precision of the engine was chosen, where it was measured.
    """

    def __init__(
        self,
        out: Path | None,
        options: RunOptions,
        config: RunConfig,
        models: Models,
        pool: DecodePool,
        precision_check: PrecisionCheck | None = None,
    ) -> None:
        self.out, self.options, self.config, self.pool = out, options, config, pool
        self.engine, self.novelty = models.engine, models.novelty
        # the recognizer derives sample times from its sampling, so it must be the one used
        self.recognizer = models.recognizer and replace(models.recognizer, sampling=config.sampling)
        self.precision_check = precision_check
        if self.novelty is not None:
            require_features(self.novelty.features, self.feature_spec, self.novelty.folder)
        stores = features_folder(out, options.features)
        self.store = FeatureStore(stores / config.features_id, config.feature_size)
        self.store.remove_abandoned_files()
        self.shot_store = ShotStore(self.store.folder)
        self.window = options.shards.window or max_shards_in_flight(
            options.shards, options.decode.num_workers
        )
        self.decoder = ShardDecoder(
            pool, self.engine, config.sampling, keep=self.window, shots=self.finds_shots
        )
        self.engine_lock = EngineLock()
        self.stopping = Event()
        """Set when the process is to end: no stage is tried again."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decode processes, and free the memory of frames."""
        self.pool.close()
        self.decoder.close()

    def stop(self) -> None:
        """End the work in flight: decode processes are killed, no stage is tried again."""
        self.stopping.set()
        self.pool.kill()

    @property
    def sampling(self) -> Sampling:
        """Which frames of a video are used."""
        return self.config.sampling

    @property
    def finds_shots(self) -> bool:
        """Whether shots are looked for."""
        return self.config.shots_version is not None

    def shots(self, video_id: str) -> Shots | None:
        """Give the shots of a video; None where they are not looked for, or not known."""
        if not self.finds_shots:
            return None
        found = self.shot_store.find(video_id)
        return None if found is None else assemble_shots(found)

    @property
    def feature_spec(self) -> FeatureSpec:
        """Describe the features; a novelty model must have been fitted to the same."""
        backbone = self.engine.backbone
        return FeatureSpec(
            backbone=backbone.name,
            weights_hash=backbone.weights_hash,
            identity=backbone.identity,
            feature_size=backbone.feature_size,
            context=backbone.previous_frames,
            precision=self.engine.precision,
            sampling=self.config.sampling,
        )

    @property
    def row_options(self) -> RowOptions:
        """Which rows and columns are written."""
        return RowOptions(
            labels=self.config.labels,
            recognizer=self.config.recognizer or "",
            config_id=self.config.config_id,
            frames=self.config.frames and self.recognizer is not None,
            embeddings=self.config.embeddings,
            shots=self.finds_shots,
        )

    def describe(self) -> dict[str, Any]:
        """Describe the configuration for `run.json`."""
        config, check = self.config, self.precision_check
        return {
            "recognizer": config.recognizer,
            "recognizer_id": config.recognizer_id,
            "labels": list(config.labels),
            "sampling": {"fps": config.sampling.fps, "every": config.sampling.every},
            "clips": {
                "seconds": config.windows.seconds,
                "stride_seconds": config.windows.stride_seconds,
            },
            "backbone": config.backbone,
            "backbone_weights": self.engine.backbone.weights_hash,
            "feature_size": config.feature_size,
            "features_id": config.features_id,
            "novelty_id": config.novelty_id,
            "shots_version": config.shots_version,
            **describe_engine(self.engine),
            "precision_evidence": check.to_json() if check else None,
        }
