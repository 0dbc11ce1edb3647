"""
Derive options of the command line from dataclasses.

A dataclass such as `pipeline.config.DecodeOptions` defines each option once: its type, its default,
and its help in the docstring below the field. An `OptionGroup` makes options of the fields of a
class. `@takes` adds groups to a command, which receives the values that the user gave as `given`;
other options keep the defaults of the class.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter, Token
from cyclopts.validators import Number
from docstring_parser import parse_from_object

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
