"""Options of several commands, and the options of a run that they build."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from flows.cli.derive import Given, Option, integer, option_group
from pipeline.config import (
    DEFAULT_SAMPLING,
    ClipWindows,
    DecodeOptions,
    EncodeOptions,
    RunOptions,
    Sampling,
)
from pipeline.temporal.options import TrainingOptions
from pipeline.training.options import ExternalFeatures, LabelOptions

SAMPLING_PANEL = Group("Sampling and clips", sort_key=1)
LABELS_PANEL = Group("Labels", sort_key=0)
TRAINING_PANEL = Group("Training", sort_key=3)
OUTPUT_PANEL = Group("Output", sort_key=7)
"""Panels of the help page are sorted by their keys."""

RUN = option_group(
    RunOptions,
    tap=Option(default="its end"),
    grid=Option(default="1"),
    features=Option(default="OUT/features"),
)
CACHE = RUN.change(
    features={
        "help": "Folder of the feature store; train, evaluate, diagnose and novelty fit share it, "
        "so that no frame is decoded twice.",
        "default": "features in the user's cache folder",
    }
)
RECOGNIZER_BACKBONE = {
    "help": "Where the backbone of the recognizer is found if not under its saved name, such as "
    "local-dir:PATH; its weights must be the same."
}
"""Changes of the option `backbone` where a recognizer names the backbone."""
SAMPLING = option_group(
    Sampling,
    SAMPLING_PANEL,
    fps=Option("--sample-fps", default=f"{DEFAULT_SAMPLING.fps:g}, unless --every is given"),
)
RECOGNIZER_SAMPLING = SAMPLING.change(fps={"default": "the recognizer's"})
CLIPS = option_group(
    ClipWindows,
    SAMPLING_PANEL,
    seconds=Option(
        "--clip-seconds",
        help="Length of clips in seconds; 0 makes one clip of each shot.",
        default="the recognizer's, 2 with camera-motion",
        to_field=lambda seconds: seconds or None,
    ),
)
ENCODING = option_group(EncodeOptions, Group("Encoding", sort_key=5))
DECODING = option_group(
    DecodeOptions,
    Group("Decoding", sort_key=6),
    frame_timeout_seconds=Option("--frame-timeout"),
    video_timeout_seconds=Option("--video-timeout"),
    memory_bytes=Option(
        "--decode-memory",
        help="Maximum memory of one decode process, in MiB.",
        minimum=64,
        from_field=lambda count: count >> 20,
        to_field=lambda mebibytes: mebibytes << 20,
    ),
)
TRAINING = option_group(
    TrainingOptions,
    TRAINING_PANEL,
    epochs=Option(minimum=1),
    refit=Option(negative=True),
    seed=Option(minimum=0),
)

LABELS = option_group(LabelOptions, LABELS_PANEL, split=Option(default="the only one of the table"))
EXTERNAL = option_group(ExternalFeatures, LABELS_PANEL)

SWITCH = Parameter(show_default=False)
Videos = Annotated[
    str,
    Parameter(
        help="Files, folders, globs, lists (.csv, .tsv, .txt, .parquet), or folders of numbered "
        "images.",
        required=True,
    ),
]
Out = Annotated[Path, Parameter(alias="-o", help="Results folder.")]
OutputFolder = Annotated[Path, Parameter(name=("--out", "-o"), help="Output folder.")]
LabelsTable = Annotated[
    Path,
    Parameter(
        help="Table video,label[,start_seconds,end_seconds][,group][,split] in CSV; a folder "
        "with one sub-folder of videos per label, or folders train, validation and test with them; "
        "or a folder of NAME.txt, one label a line for each frame of a video, or of NAME.npz with "
        "an array `labels`.",
    ),
]
VideosFolder = Annotated[
    Path,
    Parameter(
        help="Folder that the paths in LABELS are relative to.", show_default="that of LABELS"
    ),
]
Seed = Annotated[int, integer(0), Parameter(help="Random seed.")]
AsJson = Annotated[bool, SWITCH, Parameter(name="--json", help="Print JSON.", group=OUTPUT_PANEL)]
Quiet = Annotated[
    bool, SWITCH, Parameter(alias="-q", help="Print nothing but errors.", group=OUTPUT_PANEL)
]


def run_options(given: Given, **defaults: Any) -> RunOptions:
    """
    Build the options of a run.

    Args:
        given: values of the command line; they have priority.
        defaults: fields of `RunOptions` with another default than that of the class.

    Raises:
        OptionError: a value is invalid.
    """
    classes = {
        "sampling": Sampling,
        "clips": ClipWindows,
        "decode": DecodeOptions,
        "encode": EncodeOptions,
    }
    parts = {name: made(**given[made]) for name, made in classes.items() if given.get(made)}
    return RunOptions(**{**defaults, **parts, **given.get(RunOptions, {})})


def default_store() -> str:
    """Return the folder of the feature store that commands other than `run` and `serve` share."""
    from pipeline.run.load import cache_folder

    return str(cache_folder() / "features")


def recognizer_options(given: Given, recognizer: str, precision: str) -> RunOptions:
    """
    Build the options of a run that reuses the features of a training.

    Args:
        given: values of the command line.
        recognizer: its folder or name.
        precision: of the backbone in the training; used unless the user gave another.

    Raises:
        OptionError: a value is invalid.
    """
    options = run_options(given, recognizer=recognizer, features=default_store())
    if options.encode.precision != "auto":
        return options
    encode = EncodeOptions(**{**given[EncodeOptions], "precision": precision})
    return replace(options, encode=encode)
