"""HTML pages from templates: single files without scripts, in which every value is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.storage import write_text

COLOURS = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1"),
    *("#ff9da7", "#9c755f", "#bab0ac", "#86bcb6", "#d37295", "#8cd17d", "#499894"),
    *("#f1ce63", "#a0cbe8", "#ffbe7d", "#d4a6c8", "#79706e", "#fabfd2"),
)


def label_colours(labels: Sequence[str]) -> dict[str, str]:
    """Assign a colour to every label; with more labels than colours they repeat."""
    return {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)}


def write_page(template: str, path: Path, **values: Any) -> Path:
    """
    Render a template of the folder `templates` with the shared stylesheet.

    Args:
        template: file name of the template.
        path: file to write.
        **values: variables of the template.

    Returns:
        The path of the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["hours"] = _format_hours
    environment.filters["fact"] = _format_fact
    write_text(environment.get_template(template).render(values), path)
    return path


def _format_hours(seconds: float) -> str:
    """Format a duration as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _format_fact(value: Any) -> str:
    """Format a JSON value for people: `fps: 8.0` instead of `{'every': None, 'fps': 8.0}`."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {item}" for name, item in value.items() if item is not None)
    return str(value)
