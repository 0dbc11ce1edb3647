"""Open a session: load the recognizer and the backbone, choose the precision, make the engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.anomaly.storage import load_novelty
from pipeline.config import RunOptions
from pipeline.decode.process_pool import DecodePool
from pipeline.encode.backbone import Backbone, load_backbone, require_same_weights
from pipeline.encode.custom_backbone import load_custom_backbone
from pipeline.encode.feature_store import features_folder
from pipeline.encode.frame_pair import load_frame_pair
from pipeline.errors import OptionError, RecognizerError
from pipeline.progress import RunProgress
from pipeline.recognition.recognizer import (
    BACKBONE_WEIGHTS,
    EXTERNAL_FEATURES,
    Recognizer,
    load_recognizer,
)
from pipeline.records import Video
from pipeline.run.choose_precision import EngineFactory, PrecisionSelector
from pipeline.run.run_config import RunConfig, resolve_config, resolve_sampling
from pipeline.run.session import Models, Session


def open_session(
    out: Path | None,
    options: RunOptions,
    cache: Path | None = None,
    *,
    videos: Sequence[Video] = (),
    config: RunConfig | None = None,
    progress: RunProgress | None = None,
) -> Session:
    """
    Load everything that a run needs, and start the decode processes.

    Args:
        out: results folder; None computes features only.
        options: of the run.
        cache: folder for converted networks; the user's cache by default.
        videos: of the run: with precision `auto`, their first frames decide whether a reduced one
            is accurate enough. Without them it is float32, unless an earlier run on the same
            features has chosen.
        config: what another process has resolved; this one must load the same.
        progress: records how long the parts of the start take.

    Raises:
        PipelineError: something that the options name is missing or does not fit.
        ConfigMismatch: not what `config` says was loaded.
    """
    progress = progress or RunProgress()
    if config is not None:
        options = replace(options, encode=replace(options.encode, precision=config.precision))
    with contextlib.ExitStack() as opened:
        # the processes start while the networks load
        pool = opened.enter_context(DecodePool(options.decode, eager=True))
        with progress.starting("networks"):
            recognizer, backbone = load_models(options)
            novelty = load_novelty(Path(options.novelty).expanduser()) if options.novelty else None
        sampling = resolve_sampling(options, recognizer)
        engines = EngineFactory(backbone, options.encode, cache or cache_folder())
        with progress.starting("engine"):
            folder = features_folder(out, options.features)
            selector = PrecisionSelector(engines, folder, sampling, pool)
            engine, check = selector.choose(videos)
        with progress.starting("store"):
            found = resolve_config(options, recognizer, engine, novelty)
            if config is not None:
                config.require_equal(found)
            models = Models(engine, recognizer, novelty)
            session = Session(out, options, found, models, pool, check)
        opened.pop_all()
    return session


def load_models(options: RunOptions) -> tuple[Recognizer | None, Backbone]:
    """
    Load the recognizer and its backbone, and check that they belong together.

    Raises:
        RecognizerError: the backbone has other weights than the one that the recognizer was
            trained with.
        OptionError: a backbone was given for a recognizer that contains one.
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
    if spec.name == EXTERNAL_FEATURES:
        raise RecognizerError(
            f"{recognizer.name} was trained on features made elsewhere (--features-from), so it "
            "cannot read videos: train one with --videos and --backbone"
        )
    contains_backbone = spec.name == "pairs" or recognizer.network is not None
    if contains_backbone and (options.backbone or options.weights):
        raise OptionError(
            f"{recognizer.name} contains its backbone: remove --backbone and --weights"
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
            f"{recognizer.name} expects {spec.feature_size} features a frame, "
            f"its backbone computes {backbone.feature_size}"
        )
    return recognizer, backbone


def cache_folder() -> Path:
    """Return the user's cache folder for converted networks."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "clipline"
