"""Options that are derived from the fields of dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from cyclopts import App, CycloptsError, Group, Parameter

from flows.cli.derive import Given, Option, integer, option_group, takes


@dataclass(frozen=True)
class Numbers:
    """Options of a test."""

    count: int = 3
    """Number of
    things.

    More about them."""
    rate_hertz: float | None = None
    """Rate in hertz."""
    mode: Literal["fast", "exact"] = "fast"
    """How to count."""
    loud: bool = False
    """Print more."""
    nested: dict = field(default_factory=dict)
    """Not an option."""
    num_bytes: int = 2 << 20
    """Memory in bytes."""


NUMBERS = option_group(
    Numbers,
    Group("Numbers"),
    rate_hertz=Option("--rate", default="that of the file"),
    num_bytes=Option(
        "--memory", help="Memory in MiB.", from_field=lambda n: n >> 20, to_field=lambda n: n << 20
    ),
).only("count", "rate_hertz", "mode", "loud", "num_bytes")


def parse(words, *groups):
    """Return what a command with options of `Numbers` receives."""
    app = App(default_parameter=Parameter(negative=()))
    received = []

    @app.default
    @takes(*(groups or (NUMBERS,)))
    def command(*names: str, given: Given) -> None:
        received.append(given[Numbers])

    run, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    run(*bound.args, **bound.kwargs)
    return received[0]


def help_of(name, group=NUMBERS):
    (argument,) = [one for one in arguments(group) if name in one.names]
    return argument


def arguments(group):
    app = App(default_parameter=Parameter(negative=()))

    @app.default
    @takes(group)
    def command(given: Given) -> None:
        """Do nothing."""

    return app.assemble_argument_collection()


def test_only_values_of_the_user_are_handed_on():
    assert parse([]) == {}
    assert parse(["a", "--count", "4", "b"]) == {"count": 4}
    assert parse(["--rate", "2", "--mode", "exact", "--loud"]) == {
        "rate_hertz": 2.0,
        "mode": "exact",
        "loud": True,
    }


def test_values_are_converted_to_the_unit_of_the_field():
    assert parse(["--memory", "5"]) == {"num_bytes": 5 << 20}
    assert help_of("--memory").field_info.default == 2


def test_names_and_help_come_from_the_fields():
    assert [one.name for one in arguments(NUMBERS)] == [
        *("--count", "--rate", "--mode", "--loud", "--memory")
    ]
    assert help_of("--count").parameter.help == "Number of things."
    assert help_of("--memory").parameter.help == "Memory in MiB."
    assert help_of("--mode").get_choices() == ("fast", "exact")
    assert help_of("--count").field_info.default == 3
    assert help_of("--rate").show_default == "that of the file"


def test_defaults_of_a_command_are_shown_instead_of_those_of_the_class():
    changed = NUMBERS.change(count={"default": "as before"}, mode={"required": True})

    assert help_of("--count", changed).show_default == "as before"
    assert help_of("--mode", changed).required
    with pytest.raises(CycloptsError, match="--mode"):
        parse([], changed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "2.5"], '"2.5" is not a whole number'),
        (["--rate", "fast"], '"fast" is not a number'),
        (["--mode", "slow"], 'Choose from: "fast", "exact"'),
        (["--nested", "1"], "Unknown option: --nested"),
        (["--no-loud"], "Unknown option: --no-loud"),
    ],
)
def test_invalid_values_fail(words, message):
    with pytest.raises(CycloptsError, match=message):
        parse(words)


def test_a_switch_may_have_a_negative_form():
    switch = NUMBERS.change(loud={"negative": True})

    assert parse(["--no-loud"], switch) == {"loud": False}


def test_a_minimum_is_checked():
    assert parse(["--count", "1"], NUMBERS.change(count={"minimum": 1})) == {"count": 1}
    with pytest.raises(CycloptsError, match="Must be >= 1"):
        parse(["--count", "0"], NUMBERS.change(count={"minimum": 1}))


def test_whole_numbers_of_commands_have_a_minimum():
    (validator,) = integer(2).validator

    with pytest.raises(ValueError, match="Must be >= 2"):
        validator(int, 1)
