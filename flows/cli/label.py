"""The command `label`: label clips in a browser."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.derive import Given, integer, takes
from flows.cli.options import CLIPS, DECODING, ENCODING, Quiet, Videos
from flows.cli.train import FEATURES, feature_options
from flows.cli.view import serve_until_stopped
from pipeline.config import ClipWindows, RunOptions
from pipeline.errors import OptionError

if TYPE_CHECKING:
    from pipeline.browse.candidates import Candidates

DEFAULT_CLIP_SECONDS = 2.0


@takes(
    FEATURES.change(
        backbone={
            "required": False,
            "help": "Backbone whose features choose the clips; train reuses them. Not with OUT.",
        }
    ),
    CLIPS.only("seconds").change(
        seconds={
            "help": "Length of the clips in seconds; 0 shows each video as one clip.",
            "default": f"{DEFAULT_CLIP_SECONDS:g}",
        }
    ),
    ENCODING.only("device", "precision"),
    DECODING,
)
def label(
    *videos: Videos,
    out: Annotated[Path, Parameter(alias="-o", help="Table of labels; answers are appended.")],
    label: Annotated[
        tuple[str, ...],
        Parameter(help="A label to offer; repeat the option for more.", show_default=False),
    ] = (),
    port: Annotated[
        int, integer(0), Parameter(help="Port of the server.", show_default="a free one")
    ] = 0,
    no_open: Annotated[bool, Parameter(help="Print the address only; open no browser.")] = False,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Label clips in a browser: the most useful ones first, by keys; answers go to LABELS.csv.

    VIDEOS may be one results folder: its clips and stored features are used, and clips between
    whose labels the recognizer decides least clearly come first.
    """
    from pipeline.browse.label_file import LabelFile
    from pipeline.browse.labeller import Labeller, Labelling
    from pipeline.storage import file_lock

    with file_lock(out.with_name(f".{out.name}.lock"), f"table of labels {out}"):
        file = LabelFile(out)
        candidates, options = _candidates(list(videos), given, quiet=quiet)
        windows = ClipWindows(**given[ClipWindows])
        whole = "seconds" in given[ClipWindows] and windows.seconds is None
        labelling = Labelling(candidates, file, label, whole, options)
        serve_until_stopped(
            lambda decoder: Labeller(labelling, decoder).routes(), port, no_open=no_open
        )


def _candidates(videos: list[str], given: Given, *, quiet: bool) -> tuple[Candidates, str]:
    """Return the clips, and the options of the `train` command."""
    from pipeline.browse.candidates import candidates_of_results, candidates_of_videos

    named = given[RunOptions]
    if len(videos) == 1 and (Path(videos[0]) / "run.json").exists():
        if "backbone" in named or given[ClipWindows]:
            raise OptionError("a results folder has its own clips and backbone: remove the options")
        return candidates_of_results(Path(videos[0])), ""
    if "backbone" not in named:
        raise OptionError("the backbone is missing: add --backbone NAME, or name a results folder")
    from flows.cli.console import watch
    from flows.server.launch import open_with_features
    from pipeline.sources.discovery import find_videos

    options = feature_options(given)
    found = find_videos(videos, image_fps=options.image_fps, full_hash=options.full_hash)
    windows = ClipWindows(**{"seconds": DEFAULT_CLIP_SECONDS, **given[ClipWindows]})
    with open_with_features(options, found, partial(watch, quiet=quiet)) as (session, _):
        candidates = candidates_of_videos(found, session.store, session.sampling, windows)
    sys.stdout.flush()
    return candidates, f"--backbone {named['backbone']}"
