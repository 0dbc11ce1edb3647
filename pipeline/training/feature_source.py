"""The features of labelled videos, and how they were made: by a session, or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.config import Sampling
from pipeline.encode.backbone import LOCAL_DIR, local_folder
from pipeline.encode.shot_store import Shots
from pipeline.recognition.recognizer import BackboneSpec
from pipeline.records import DecodeReport, FrameFeatures
from pipeline.run.session import Session
from pipeline.training.feature_files import FeatureFiles


class FeatureReader(Protocol):
    """Reads the features of videos: a feature store, or files."""

    def has(self, video_id: str) -> bool:
        """Whether it has all features of a video."""

    def reports(self, video_id: str) -> list[DecodeReport]:
        """Return how the parts of a video were decoded."""

    def stream(self, video_id: str) -> Iterator[FrameFeatures]:
        """Read the features of a video in order, part by part."""


def _no_shots(video_id: str) -> Shots | None:
    return None


@dataclass(frozen=True)
class FeatureSource:
    """Where the features of labelled videos are read, and how they were made."""

    store: FeatureReader
    backbone: BackboneSpec
    sampling: Sampling
    licence: str | None = None
    """Of the weights of the backbone."""
    not_stored: Mapping[str, DecodeReport] = field(default_factory=dict)
    """By video id, the reports of videos without features."""
    shots: Callable[[str], Shots | None] = _no_shots
    """Gives the shots of a video by its id; None where they are not known."""

    @classmethod
    def of_session(cls, session: Session, not_stored: Mapping[str, DecodeReport]) -> FeatureSource:
        """Read the store of a session; `not_stored` is what `ensure_features` gave."""
        return cls(
            session.store,
            backbone_spec(session),
            session.sampling,
            session.engine.backbone.licence,
            not_stored,
            session.shots,
        )

    @classmethod
    def of_files(cls, files: FeatureFiles) -> FeatureSource:
        """Read features made elsewhere."""
        return cls(files, files.backbone, files.sampling)


def backbone_spec(session: Session) -> BackboneSpec:
    """Describe the backbone of a session; paths in its name become absolute."""
    backbone, options = session.engine.backbone, session.options
    name = backbone.name
    folder = local_folder(name)
    if folder is not None:
        name = f"{LOCAL_DIR}:{folder.resolve()}"
    return BackboneSpec(
        name=name,
        weights_hash=backbone.weights_hash,
        feature_size=backbone.feature_size,
        tap=options.tap,
        grid=options.grid,
        context=backbone.previous_frames,
        precision=session.engine.precision,
    )
