"""
Options of the command line, derived from the options classes of the pipeline.

An options class (`pipeline.config`, `pipeline.temporal.options`, ...) defines each option once: its
type, its default, and its help in the docstring below the field. An `OptionGroup` makes options of
the fields of a class. `@takes` adds groups to a command, which receives the values that the user
gave as `given`; other options keep the defaults of the class.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter, Token
from cyclopts.validators import Number
from docstring_parser import parse_from_object

from pipeline.config import (
    DEFAULT_SAMPLING,
    ClipWindows,
    DecodeOptions,
    EncodeOptions,
    RunOptions,
    Sampling,
)
from pipeline.temporal.options import TrainingOptions

Result = TypeVar("Result")
Given = Mapping[type, Mapping[str, Any]]
"""Values that the user gave: by options class, then by field."""


def parse_value(kind: type, tokens: Sequence[Token]) -> Any:
    """
    Parse a string, a whole number, or a number.

    Stricter than cyclopts, which rounds 2.5 to 2 and reads the string "none" as None.

    Raises:
        ValueError: the word is not of this kind.
    """
    word = tokens[0].value
    try:
        return kind(word)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f'"{word}" is not {expected}.') from None


def integer(minimum: int) -> Parameter:
    """Return the properties of a whole number with a minimum."""
    return Parameter(converter=parse_value, validator=Number(gte=minimum))


@dataclass(frozen=True, slots=True)
class Option:
    """How an option of the command line differs from its field."""

    name: str = ""
    """With dashes; by default that of the field."""
    help: str = ""
    """By default the first paragraph of the docstring below the field."""
    default: str = ""
    """Text that the help shows as the default."""
    required: bool = False
    minimum: int | None = None
    negative: bool = False
    """Whether a switch can also be turned off, with `--no-` before its name."""
    from_field: Callable[[Any], Any] = lambda value: value
    """Convert the default of the field to the unit of the option."""
    to_field: Callable[[Any], Any] = lambda value: value
    """Convert a value from the unit of the option to that of the field."""

    def parameter(self, name: str, kind: Any, help: str, panel: Group | None) -> Parameter:
        """Return the properties of the option for cyclopts."""
        changes: dict[str, Any] = {}
        if kind in (str, int, float):
            changes["converter"] = parse_value
        if self.minimum is not None:
            changes["validator"] = Number(gte=self.minimum)
        if panel is not None:
            changes["group"] = panel
        if self.negative:
            changes["negative"] = None  # that of cyclopts, --no-NAME
        switch = kind is bool and not self.negative
        shown = False if switch else self.default or None
        return Parameter(name=name, help=self.help or help, show_default=shown, **changes)


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """Options of the command line that set fields of one options class."""

    of: type
    panel: Group | None
    """Of the help page; None is that of the parameters of the command itself."""
    options: Mapping[str, Option]
    """By field."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that differ from those of the class, by field."""

    def only(self, *names: str) -> OptionGroup:
        """Keep some fields, in this order."""
        return replace(self, options={name: self.options[name] for name in names})

    def without(self, *names: str) -> OptionGroup:
        """Leave out some fields."""
        return replace(
            self, options={name: one for name, one in self.options.items() if name not in names}
        )

    def change(self, **options: Mapping[str, Any]) -> OptionGroup:
        """Change properties of options, by field."""
        changed = {name: replace(self.options[name], **new) for name, new in options.items()}
        return replace(self, options={**self.options, **changed})

    def name_of(self, name: str) -> str:
        """Return the option of a field, with dashes."""
        return self.options[name].name or "--" + name.replace("_", "-")

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return a keyword parameter for each field, for the signature of a command."""
        kinds = get_type_hints(self.of)
        helps, defaults = _field_helps(self.of), {**_field_defaults(self.of), **self.defaults}
        found = {}
        for name, option in self.options.items():
            kind = _without_none(kinds[name])
            default = inspect.Parameter.empty
            if not option.required:
                default = option.from_field(defaults.get(name))
            shown = option.parameter(self.name_of(name), kind, helps.get(name, ""), self.panel)
            found[name] = inspect.Parameter(
                self.name_of(name).lstrip("-").replace("-", "_"),
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind | None if default is None else kind, shown],
            )
        return found


@functools.cache
def _field_helps(options: type) -> dict[str, str]:
    """Return the first paragraph of the docstring below each field."""
    described = parse_from_object(options).params
    return {
        one.arg_name: " ".join(one.description.split("\n\n")[0].split())
        for one in described
        if one.description
    }


def _field_defaults(options: Any) -> dict[str, Any]:
    return {one.name: one.default for one in fields(options) if one.default is not MISSING}


def _without_none(kind: Any) -> Any:
    """Return T for `T | None`: the user leaves an option out instead of giving None."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    (only,) = (one for one in get_args(kind) if one is not types.NoneType)
    return only


def takes(
    *groups: OptionGroup,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Add options to a command; their values are handed to its parameter `given`."""
    added = {
        parameter.name: (group.of, name, group.options[name].to_field, parameter)
        for group in groups
        for name, parameter in group.parameters().items()
    }

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(command)
        def with_given(*arguments: Any, **values: Any) -> Result:
            given: dict[type, dict[str, Any]] = {group.of: {} for group in groups}
            for option in added.keys() & values.keys():
                options, name, to_field, _ = added[option]
                given[options][name] = to_field(values.pop(option))
            return command(*arguments, given=given, **values)

        signature = inspect.signature(command)
        own = [one for one in signature.parameters.values() if one.name != "given"]
        derived = [parameter for *_, parameter in added.values()]
        with_given.__signature__ = signature.replace(parameters=[*own, *derived])  # type: ignore[attr-defined]
        return with_given

    return decorate


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
    return replace(
        options, encode=EncodeOptions(**{**given[EncodeOptions], "precision": precision})
    )


def option_group(options: type, panel: Group | None = None, **changes: Option) -> OptionGroup:
    """
    Make options of all fields of a class.

    Args:
        options: the class.
        panel: of the help page.
        changes: options that differ from their field, by field.
    """
    found = {one.name: changes.get(one.name, Option()) for one in fields(options)}
    return OptionGroup(options, panel, found)


SAMPLING_PANEL = Group("Sampling and clips", sort_key=1)
TRAINING_PANEL = Group("Training", sort_key=3)
OUTPUT = Group("Output", sort_key=7)
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

SWITCH = Parameter(show_default=False)
Videos = Annotated[
    str,
    Parameter(
        help="Files, folders, globs, lists (.csv, .parquet, .txt), folders of numbered images.",
        required=True,
    ),
]
Out = Annotated[Path, Parameter(alias="-o", help="Results folder.")]
OutputFolder = Annotated[Path, Parameter(name=("--out", "-o"), help="Output folder.")]
LabelsTable = Annotated[
    Path,
    Parameter(
        help="Table video,label[,start_seconds,end_seconds][,group][,split] in CSV, or a folder "
        "with one sub-folder of videos per label.",
    ),
]
VideosFolder = Annotated[
    Path,
    Parameter(
        help="Folder that the paths in LABELS are relative to.", show_default="that of LABELS"
    ),
]
Seed = Annotated[int, integer(0), Parameter(help="Random seed.")]
AsJson = Annotated[bool, SWITCH, Parameter(name="--json", help="Print JSON.", group=OUTPUT)]
Quiet = Annotated[
    bool, SWITCH, Parameter(alias="-q", help="Print nothing but errors.", group=OUTPUT)
]
