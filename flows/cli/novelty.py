"""The command `novelty fit`: fit a novelty model to normal videos."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flows.cli.derive import Given, takes
from flows.cli.options import (
    CACHE,
    DECODING,
    ENCODING,
    RECOGNIZER_SAMPLING,
    Quiet,
    Seed,
    Videos,
    default_store,
    run_options,
)
from pipeline.config import DEFAULT_SAMPLING, RunOptions

DEFAULT_RECOGNIZER = RunOptions().recognizer
FEATURES = CACHE.only(
    *("recognizer", "backbone", "weights", "tap", "grid", "features", "image_fps", "full_hash"),
    "strict",
).change(
    recognizer={
        "help": "Recognizer of later runs: its backbone, sampling and shot cuts are used.",
        "default": f"{DEFAULT_RECOGNIZER}, unless a backbone is given",
    },
    backbone={
        "help": "Instead of a recognizer: model name in timm, local-dir:PATH, or random:NAME. With "
        "a recognizer: where its backbone is found."
    },
)


@takes(FEATURES, RECOGNIZER_SAMPLING, ENCODING.only("device", "precision"), DECODING)
def fit(
    *videos: Videos,
    out: Annotated[Path, Parameter(alias="-o", help="Folder of the novelty model.")],
    seed: Seed = 0,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Fit a novelty model to normal videos; run --novelty then scores how unusual others are.

    Both must use the same backbone and sampling: give them the same recognizer.
    """
    from flows.cli.console import watch
    from flows.server.launch import open_with_features
    from flows.signals import exit_now
    from pipeline.anomaly.fit import fit_to_videos
    from pipeline.anomaly.storage import save_novelty
    from pipeline.sources.discovery import find_videos

    options = novelty_options(given)
    normal = find_videos(
        list(videos),
        image_fps=options.image_fps,
        full_hash=options.full_hash,
        strict=options.strict,
    )
    show = partial(watch, quiet=quiet)
    with open_with_features(options, normal, show) as (session, _):
        model = fit_to_videos(
            normal, session.store, session.feature_spec, recognizer=session.recognizer, seed=seed
        )
    save_novelty(model, out)
    if not quiet:
        _print_model(model.notes, out, options.recognizer)
    sys.stdout.flush()
    exit_now(0)


def novelty_options(given: Given) -> RunOptions:
    """
    Build the options of the run that fills the feature store.

    Raises:
        OptionError: a value is invalid.
    """
    defaults: dict[str, Any] = {"features": default_store()}
    named = given[RunOptions]
    if "backbone" in named and "recognizer" not in named:
        defaults |= {"recognizer": None, "sampling": DEFAULT_SAMPLING}
    return run_options(given, **defaults)


def _print_model(notes: dict[str, Any], out: Path, recognizer: str | None) -> None:
    from flows.cli.console import print_line

    print_line(
        f"normal: {notes['frames']} frames of {notes['videos']} videos, a subspace of "
        f"{notes['subspace']} of their features"
    )
    option = f" --recognizer {recognizer}" if recognizer not in (None, DEFAULT_RECOGNIZER) else ""
    print_line(f"clipline run VIDEOS -o OUT{option} --novelty {out}")
