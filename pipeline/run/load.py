"""Load everything that a run needs: recognizer, backbone, engine, in the precision that holds."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.anomaly.storage import load_novelty
from pipeline.config import (
    EncodeOptions,
    Geometry,
    RunOptions,
    Sampling,
    fingerprint,
    resolve_device,
)
from pipeline.decode.fallback import decode_chunk, index_video, new_buffer
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.decode.sampling import SamplePlan
from pipeline.encode.backbone import Backbone, load_backbone, require_same_weights
from pipeline.encode.custom_backbone import load_custom_backbone
from pipeline.encode.engine import Arithmetic, Engine, Placement
from pipeline.encode.engines import make_engine, reduced_precision
from pipeline.encode.feature_store import features_folder
from pipeline.encode.frame_pair import load_frame_pair
from pipeline.encode.precision import PrecisionCheck, compare_precisions
from pipeline.errors import OptionError, RecognizerError, VideoError
from pipeline.progress import RunProgress
from pipeline.recognition.recognizer import BACKBONE_WEIGHTS, Recognizer, load_recognizer
from pipeline.records import Chunk, FrameBatch, Video
from pipeline.run.session import Models, Session
from pipeline.storage import write_json

TRIAL_VIDEOS = 4
TRIAL_FRAMES = 16
"""Of each video."""
TRIAL_PIXELS = 2 * 10**8
"""Decoded of each video: a second at most."""
TRIAL_TRIES = 16
"""Videos after which no more are looked at for one that can be decoded."""


def load_models(options: RunOptions) -> tuple[Recognizer | None, Backbone]:
    """
    Load the recognizer and its backbone, and check that they belong together.

    Raises:
        RecognizerError: the backbone has other weights than the recognizer was made with.
        OptionError: a backbone is named for a recognizer that brings its own.
    """
    weights = Path(options.weights).expanduser() if options.weights else None
    if options.recognizer is None:
        assert options.backbone is not None
        backbone = load_backbone(
            options.backbone, weights=weights, layer=options.tap, pool_size=options.grid
        )
        return None, backbone
    recognizer = load_recognizer(options.recognizer)
    spec = recognizer.backbone
    brings_its_own = spec.name == "pairs" or recognizer.network is not None
    if brings_its_own and (options.backbone or options.weights):
        raise OptionError(
            f"{recognizer.name} brings its own backbone: leave --backbone and --weights away"
        )
    if spec.name == "pairs":
        assert recognizer.folder is not None
        backbone = load_frame_pair(recognizer.folder / BACKBONE_WEIGHTS)
    elif recognizer.network is not None:
        assert recognizer.folder is not None
        own = recognizer.folder / BACKBONE_WEIGHTS
        backbone = load_custom_backbone(
            own, recognizer.network, layer=spec.tap, pool_size=spec.grid
        )
    else:
        name = options.backbone or spec.name
        backbone = load_backbone(name, weights=weights, layer=spec.tap, pool_size=spec.grid)
    require_same_weights(spec.weights_hash, backbone.weights_hash, f"backbone of {recognizer.name}")
    if backbone.feature_size != spec.feature_size:
        raise RecognizerError(
            f"{recognizer.name} wants {spec.feature_size} features a frame, "
            f"its backbone gives {backbone.feature_size}"
        )
    return recognizer, backbone


def open_session(
    out: Path, options: RunOptions, cache: Path | None = None, videos: Sequence[Video] = ()
) -> Session:
    """
    Load everything that a run needs, and start the decode processes.

    Args:
        out: results folder.
        options: of the run.
        cache: folder for converted networks; the user's cache by default.
        videos: of the run: with precision `auto`, their first frames tell whether a reduced one
            holds. Without them it is float32, unless a run on the same features has chosen before.

    Raises:
        PipelineError: something the options name is not there or does not fit.
    """
    progress = RunProgress()
    with contextlib.ExitStack() as opened:
        # the processes start while the networks load
        pool = opened.enter_context(DecodePool(options.decode, eager=True))
        with progress.starting("networks"):
            recognizer, backbone = load_models(options)
            novelty = load_novelty(Path(options.novelty).expanduser()) if options.novelty else None
        sampling = options.sampling or (recognizer.sampling if recognizer else None)
        assert sampling is not None
        workbench = EngineFactory(backbone, options.encode, cache or cache_folder())
        with progress.starting("engine"):
            trial = PrecisionSelector(
                workbench, features_folder(out, options.features), sampling, pool
            )
            engine, evidence = trial.choose(videos)
        with progress.starting("store"):
            parts = Models(recognizer, engine, novelty, pool, evidence)
            session = Session(out, options, parts)
        opened.pop_all()
    session.progress.startup.update(progress.startup)
    return session


def cache_folder() -> Path:
    """Give the user's cache folder for converted networks."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "clipline"


@dataclass(frozen=True)
class EngineFactory:
    """Makes engines of one backbone."""

    backbone: Backbone
    options: EncodeOptions
    cache: Path

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engines run."""
        return resolve_device(self.options.device)

    def make(self, precision: Arithmetic) -> Engine:
        """Make the engine for a precision."""
        placement = Placement(self.device, precision)
        return make_engine(self.backbone, placement, self.options, self.cache)


@dataclass(frozen=True)
class PrecisionSelector:
    """
    Chooses the precision once for each feature store: the same run again finds the same features.

    Args:
        workbench: makes the engines.
        folder: of the feature stores, in which the choice is kept.
        sampling: which frames are tried.
        pool: decodes them.
    """

    workbench: EngineFactory
    folder: Path
    sampling: Sampling
    pool: DecodePool

    def _path(self, reduced: Arithmetic | None) -> Path:
        """Tell where the choice is kept: another card may not compute what was chosen on one."""
        bench = self.workbench
        key = fingerprint("precision", bench.backbone.identity, bench.device, reduced)
        return self.folder / f"_precision-{key}.json"  # the underline: no part of the table

    def choose(self, videos: Sequence[Video]) -> tuple[Engine, PrecisionCheck | None]:
        """Make the engine in the precision that is asked for, was chosen before, or holds."""
        asked = self.workbench.options.precision
        if asked != "auto":
            return self.workbench.make(asked), None
        reduced = reduced_precision(self.workbench.device)
        kept = self._path(reduced)
        if kept.exists():
            evidence = PrecisionCheck.from_json(json.loads(kept.read_text()))
            return self.workbench.make(evidence.precision), evidence
        if reduced is None or not videos:
            return self.workbench.make("float32"), PrecisionCheck("float32")
        return self._measure(reduced, videos)

    def _measure(
        self, precision: Arithmetic, videos: Sequence[Video]
    ) -> tuple[Engine, PrecisionCheck]:
        geometry = self.workbench.backbone.geometry
        decode = partial(first_frames, sampling=self.sampling, geometry=geometry)
        waiting = [self.pool.submit(partial(decode, video=v)) for v in videos[:TRIAL_TRIES]]
        plain = self.workbench.make("float32")
        reduced = self.workbench.make(precision)
        batches = list(islice(_decoded(waiting), TRIAL_VIDEOS))
        for future in waiting:
            future.cancel()
        evidence = compare_precisions(plain, reduced, batches)
        if evidence.frames:
            write_json(evidence.to_json(), self._path(precision))
        return (plain if evidence.precision == "float32" else reduced), evidence


def _decoded(waiting: Sequence[Future[FrameBatch | None]]) -> Iterator[FrameBatch]:
    for future in waiting:
        batch = future.result()
        if batch is not None and len(batch.images):
            yield batch


def first_frames(
    process: DecodeProcess, video: Video, sampling: Sampling, geometry: Geometry
) -> FrameBatch | None:
    """
    Decode the first samples of a video; None where its container cannot be read.

    Where a long stretch would have to be decoded for them, they are taken closer to each other.
    """
    try:
        index = index_video(process, video)
    except VideoError:
        return None
    plan = SamplePlan(index, sampling)
    within = min(len(index.pts), max(TRIAL_FRAMES, TRIAL_PIXELS // (index.width * index.height)))
    if np.searchsorted(plan.frame_indices(), within) < min(plan.num_samples, TRIAL_FRAMES):
        sampling = Sampling(every=-(-within // TRIAL_FRAMES))
    total = SamplePlan(index, sampling).num_samples
    chunk = Chunk(video, index, 0, min(total, TRIAL_FRAMES), total)
    return decode_chunk(process, chunk, sampling, geometry, new_buffer(chunk, geometry))
