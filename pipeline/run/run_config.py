"""
What decides the rows of a run, resolved once.

The process that plans a run resolves it; a process on another machine loads its models by it and
refuses to work when it has found anything else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.anomaly.model import NoveltyModel
from pipeline.config import ClipWindows, RunOptions, Sampling, fingerprint
from pipeline.encode.engine import Arithmetic, Engine
from pipeline.encode.feature_store import FEATURES_VERSION, features_id
from pipeline.encode.shot_store import SHOTS_VERSION
from pipeline.errors import ConfigMismatch
from pipeline.recognition.recognizer import Recognizer

ROWS_VERSION = 2
"""Raised when the same options give other rows than before."""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """
    Everything that decides the rows of a run, as plain values.

    `RunOptions` says what the user asked for, and where files are on this machine; this says what
    was found there.
    """

    sampling: Sampling
    windows: ClipWindows
    backbone: str
    backbone_id: str
    """Hash of the backbone: its weights, preprocessing, and the layer that is read."""
    feature_size: int
    precision: Arithmetic
    recognizer: str | None = None
    """Name of the recognizer in the rows."""
    recognizer_id: str | None = None
    labels: tuple[str, ...] = ()
    novelty_id: str | None = None
    frames: bool = False
    """Whether one row a sampled frame is written."""
    embeddings: bool = False
    """Whether the pooled state of each clip is written."""
    shots_version: int | None = None
    """Version of the shots; None where they are not looked for."""
    features_version: int = FEATURES_VERSION
    rows_version: int = ROWS_VERSION

    @property
    def features_id(self) -> str:
        """Name of the feature store: equal ids mean equal features."""
        return features_id(self.backbone_id, self.sampling, self.precision, self.features_version)

    @property
    def config_id(self) -> str:
        """Column `config_id` of all rows: equal ids mean equal rows."""
        return fingerprint(
            self.rows_version,
            self.features_id,
            self.recognizer_id,
            self.windows,
            self.frames,
            self.embeddings,
            self.novelty_id,
            # without shots, the ids are those of before there were shots
            *(() if self.shots_version is None else (f"shots {self.shots_version}",)),
        )

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunConfig:
        """Read what `to_json` wrote."""
        parts = {
            "sampling": Sampling(**values["sampling"]),
            "windows": ClipWindows(**values["windows"]),
            "labels": tuple(values["labels"]),
        }
        return cls(**{**values, **parts})

    def require_equal(self, found: RunConfig) -> None:
        """
        Require that a process has loaded what the run was planned with.

        Raises:
            ConfigMismatch: names every value that differs, as planned and as found.
        """
        planned, loaded = self.to_json(), found.to_json()
        different = [
            f"{name}: planned {planned[name]}, loaded {loaded[name]}"
            for name in planned
            if planned[name] != loaded[name]
        ]
        if different:
            raise ConfigMismatch(
                f"this process loaded something else than the run was planned with: "
                f"{'; '.join(different)}. Use the same files and the same version of Clipline"
            )


def resolve_sampling(options: RunOptions, recognizer: Recognizer | None) -> Sampling:
    """Resolve which frames are used: those of the options, else those of the recognizer."""
    sampling = options.sampling or (recognizer.sampling if recognizer else None)
    assert sampling is not None  # `RunOptions` requires it where there is no recognizer
    return sampling


def resolve_config(
    options: RunOptions,
    recognizer: Recognizer | None,
    engine: Engine,
    novelty: NoveltyModel | None = None,
) -> RunConfig:
    """Resolve what decides the rows of a run, from its options and the models that were loaded."""
    backbone = engine.backbone
    return RunConfig(
        sampling=resolve_sampling(options, recognizer),
        windows=options.clips or (recognizer.clips if recognizer else ClipWindows()),
        backbone=backbone.name,
        backbone_id=backbone.identity,
        feature_size=backbone.feature_size,
        precision=engine.precision,
        recognizer=recognizer.name if recognizer else None,
        recognizer_id=recognizer.identity if recognizer else None,
        labels=recognizer.labels if recognizer else (),
        novelty_id=novelty.identity if novelty else None,
        frames=options.frames,
        embeddings=options.embeddings,
        shots_version=SHOTS_VERSION if options.shots == "auto" else None,
    )
