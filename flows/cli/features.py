"""The command `features`: fill the feature store only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli.derive import Given, takes
from flows.cli.options import (
    DECODING,
    ENCODING,
    RUN,
    SAMPLING,
    AsJson,
    Out,
    Quiet,
    Videos,
    run_options,
)
from flows.cli.run import Fresh, Output, Timings, run_and_exit
from pipeline.config import DEFAULT_SAMPLING

if TYPE_CHECKING:
    pass

FIELDS = (
    "backbone",
    "weights",
    "tap",
    "grid",
    "image_fps",
    "shots",
    "features",
    "full_hash",
    "strict",
    "wait",
)


@takes(
    RUN.only(*FIELDS).change(backbone={"required": True}),
    SAMPLING,
    ENCODING,
    DECODING,
)
def features(
    *videos: Videos,
    out: Out,
    fresh: Fresh = False,
    timings: Timings = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Only fill the feature store: one row of features per sampled frame."""
    options = run_options(given, recognizer=None, sampling=DEFAULT_SAMPLING)
    run_and_exit(videos, out, options, Output(as_json, quiet, timings), fresh=fresh)
