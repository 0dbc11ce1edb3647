"""The command line compared with that of commit 95dab6b, before it was derived from dataclasses."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from cyclopts import CycloptsError

from flows.cli.app import make_app, run_command
from flows.signals import USAGE
from pipeline.config import RunOptions
from pipeline.training.annotations import Annotations
from pipeline.training.options import LabelOptions, LearningOptions

FIXTURES = Path(__file__).parents[2] / "fixtures"
REMOVED = {"bench": {"--case", "--clips"}}
"""Options that are gone: measurements of the project itself are in `tests/benchmarks`."""
RENAMED = {"clips_a_step": "batch_size"}
"""Python names of parameters, old and new; the options have the same names."""
OPTIONAL = {("train", "--backbone")}
"""Options that are no longer required: `--features-from` is given in their place."""


def is_removed(command, option):
    return option in REMOVED.get(command, ())


USED_BEFORE = json.loads((FIXTURES / "command_lines_used.json").read_text())
USED = [
    line
    for line in USED_BEFORE
    if not any(is_removed(line.get("command"), word) for word in line["arguments"])
    and not any(is_removed(line["arguments"][0], word) for word in line["arguments"][1:])
]


def old_commands():
    """Return the parameters of each old command by its name, without removed options."""
    old = json.loads((FIXTURES / "command_line.json").read_text())
    commands = {name: found["parameters"] for name, found in old["commands"].items()}
    for name, removed in REMOVED.items():
        kept = [one for one in commands[name] if removed.isdisjoint(one.get("options", ()))]
        assert len(kept) == len(commands[name]) - len(removed)
        commands[name] = kept
    fit = old["commands"]["novelty"]["commands"]["fit"]
    return {"": old["parameters"], **commands, "novelty fit": fit["parameters"]}


OLD = old_commands()
COMMANDS = [name for name in OLD if name not in ("", "novelty")]


def find_app(command):
    app = make_app()
    for word in command.split():
        app = app[word]
    return app


def new_options(command):
    """Return the arguments of a new command by each of their option strings."""
    app = find_app(command)
    found = {name: None for name in app if name.startswith("-")}
    if app.default_command:
        for argument in app.assemble_argument_collection(parse_docstring=True):
            found |= dict.fromkeys(argument.names, argument)
    return found


def shown_default(argument):
    """Return the default that the help page shows."""
    if isinstance(argument.show_default, str):
        return argument.show_default.split("; frames: ")[0]  # that of clips
    return argument.field_info.default


OLD_OPTIONS = [
    pytest.param(command, old, id=f"{command} {old['options'][0]}")
    for command, parameters in OLD.items()
    for old in parameters
    if old["kind"] == "option"
]


@pytest.mark.parametrize(("command", "old"), OLD_OPTIONS)
def test_old_options_are_kept(command, old):
    options = new_options(command)

    assert {*old["options"], *old["negative_options"]} <= options.keys()
    if command:
        argument = options[old["options"][0]]
        is_required = old["required"] and (command, old["options"][0]) not in OPTIONAL
        assert argument.required == is_required
        assert all(options[name] is argument for name in old["options"])
        assert (argument.is_flag() or bool(argument.negatives)) == old["is_flag"]
        if old["default"] not in (None, False, ""):
            assert str(shown_default(argument)) == str(old["default"])


@pytest.mark.parametrize("command", COMMANDS)
def test_positional_arguments_are_kept(command):
    old = [one for one in OLD[command] if one["kind"] == "argument"]
    found = find_app(command).assemble_argument_collection()
    positional = [one for one in found if one.index is not None]

    assert [one.required for one in positional] == [one["required"] for one in old]
    assert [one.is_var_positional() for one in positional] == [one["multiple"] for one in old]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help(command):
    found = find_app(command).assemble_argument_collection(parse_docstring=True)

    assert [one.name for one in found if one.show and not one.parameter.help] == []
    assert find_app(command).help


def command_id(line):
    return " ".join(line["arguments"]) or "no arguments"


@pytest.mark.parametrize(
    "line", [e for e in USED if "values" in e and not e["exit_code"]], ids=command_id
)
def test_command_lines_in_use_are_parsed_to_the_same_values(line):
    _, bound, _ = make_app().parse_args(line["arguments"])
    parsed = json.loads(json.dumps(bound.arguments, default=str))
    parsed |= parsed.pop("given", {})

    for name, value in line["values"].items():
        assert parsed.get(RENAMED.get(name, name), []) == value


@pytest.mark.parametrize("line", [e for e in USED_BEFORE if e not in USED], ids=command_id)
def test_removed_options_are_unknown(line, capsys):
    assert run_command(line["arguments"]) == USAGE

    assert "Unknown option" in capsys.readouterr().err


@pytest.mark.parametrize("line", [e for e in USED if e["exit_code"]], ids=command_id)
def test_usage_mistakes_are_reported_in_one_sentence(line, started, capsys):
    code = run_command(line["arguments"])

    assert code == line["exit_code"] == USAGE
    assert started == []
    printed = capsys.readouterr()
    if line["message"]:
        assert printed.out == ""
        assert printed.err.startswith("clipline: ")
        assert printed.err.count("\n") == 1
    else:
        assert printed.out.startswith("Usage: clipline")


class Started(BaseException):
    """The command has built its options and starts to work."""


@pytest.fixture
def started(monkeypatch):
    """Replace the work of all commands; collect the options with which it is started."""
    from flows.cli import bench, bench_runs, evaluate
    from flows.server import launch, service
    from pipeline.encode import backbone
    from pipeline.recognition import recognizer
    from pipeline.results import tables
    from pipeline.run import load
    from pipeline.sources import discovery
    from pipeline.training import labelled, read_labels

    found = []

    def start(*arguments, **named):
        kinds = (RunOptions, LearningOptions)
        found.extend(one for one in arguments if isinstance(one, kinds))
        raise Started

    saved = SimpleNamespace(
        backbone=SimpleNamespace(name="NAME", precision="float32"),
        labels=(),
        notes={},
        task="clips",
        multi_label=False,
    )
    last = {"options": {}, "sources": ["/videos"], "working_folder": "/"}
    replaced = {
        launch: {"run_once": start, "open_with_features": start},
        service: {"serve_forever": start, "use_running_server": start},
        bench: {"measure_groups": start},
        bench_runs: {"temporary_api": lambda folder: contextlib.nullcontext()},
        evaluate: {"_require_compatible": lambda *given: None},
        discovery: {"find_videos": lambda *given, **named: []},
        labelled: {"find_videos_of": lambda *given: []},
        backbone: {"middle_layer": lambda name: "MIDDLE"},
        recognizer: {
            "load_recognizer": lambda name: saved,
            "require_labels": lambda *given: None,
            "bundled_recognizers": start,
        },
        tables: {"read_run": lambda out: last},
        load: {"cache_folder": lambda: Path("/cache/clipline")},
        read_labels: {"read_labels": lambda *given: Annotations((), ())},
    }
    for module, names in replaced.items():
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("flows.cli.train._train", start)
    return found


@pytest.mark.parametrize("line", [e for e in USED if "options" in e], ids=command_id)
def test_command_lines_in_use_start_with_the_same_options(line, started):
    with pytest.raises(Started):
        run_command(line["arguments"])

    (options,) = started
    defaults = asdict(RunOptions())
    if isinstance(options, LearningOptions):
        decided = LabelOptions(task="clips")  # by the labels
        defaults = asdict(LearningOptions(RunOptions(), labels=decided))
    assert as_json(asdict(options)) == as_json(merge(defaults, line["options"]))


def as_json(value):
    return json.loads(json.dumps(value))


def merge(defaults, changes):
    """Replace values of nested dictionaries."""
    merged = dict(defaults)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(defaults.get(name), dict)
        merged[name] = merge(defaults[name], value) if nested else value
    return merged


@pytest.mark.parametrize("line", [e for e in USED if "prints" in e], ids=command_id)
def test_help_and_version_are_printed(line, capsys):
    assert run_command(line["arguments"]) == 0

    printed = capsys.readouterr().out
    if line["prints"] == "version":
        assert printed == "0.1.0\n"
    else:
        assert printed.startswith("Usage: clipline")


WITH_MINIMUM = [
    pytest.param(command, old, id=f"{command} {old['options'][0]}")
    for command, parameters in OLD.items()
    for old in parameters
    if old.get("min") is not None
]
REQUIRED = {"--out": "OUT", "--backbone": "NAME"}


@pytest.mark.parametrize(("command", "old"), WITH_MINIMUM)
def test_values_below_the_old_minimum_are_refused(command, old, started, capsys):
    required = [one for one in OLD[command] if one["required"]]
    positional = ["POSITIONAL" for one in required if one["kind"] == "argument"]
    options = [word for one in required if one["kind"] == "option"
               for word in (one["options"][0], REQUIRED[one["options"][0]])]  # fmt: skip
    value = str(old["min"] - (1 if isinstance(old["min"], int) else old["min"] / 2))

    code = run_command([*command.split(), *positional, *options, old["options"][0], value])

    assert code == USAGE
    assert started == []
    assert value in capsys.readouterr().err


class TestOrder:
    """Options may stand before, between and after arguments."""

    @pytest.mark.parametrize(
        "words",
        [
            ["a", "b", "-o", "OUT", "--frames", "--every", "2"],
            ["-o", "OUT", "--frames", "--every", "2", "a", "b"],
            ["a", "--frames", "-o", "OUT", "b", "--every", "2"],
            ["a", "-oOUT", "--every=2", "--frames", "--", "b"],
            ["a", "--every", "9", "--out=OUT", "b", "--frames", "--every", "2"],
        ],
    )
    def test_of_words(self, words):
        _, bound, _ = make_app().parse_args(["run", *words])

        assert bound.arguments["videos"] == ("a", "b")
        assert bound.arguments["out"] == Path("OUT")
        assert bound.kwargs["frames"] is True
        assert bound.kwargs["every"] == 2

    def test_names_that_look_like_other_things_are_kept(self):
        words = ["[a].mp4", "none", "1", "{}", "--", "-b", "--frames"]
        _, bound, _ = make_app().parse_args(["run", "-o", "OUT", *words])

        assert bound.arguments["videos"] == tuple(word for word in words if word != "--")


def test_similar_options_are_suggested():
    with pytest.raises(CycloptsError, match="Did you mean --recognizer"):
        make_app().parse_args(["run", "a", "-o", "OUT", "--recogniser", "X"])


def test_parsing_does_not_depend_on_pydantic():
    """Cyclopts validates values with pydantic if something else has imported it."""
    import pydantic

    assert pydantic
    _, bound, _ = make_app().parse_args(["run", "a", "-o", "OUT", "--features", "none"])

    assert bound.kwargs["features"] == "none"
