"""
HTML pages from templates: single files in which every value is escaped.

A page loads nothing. Its Content-Security-Policy allows the stylesheet and the script that are part
of it, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.storage import write_text

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = (
    *("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1"),
    *("#ff9da7", "#9c755f", "#bab0ac", "#86bcb6", "#d37295", "#8cd17d", "#499894"),
    *("#f1ce63", "#a0cbe8", "#ffbe7d", "#d4a6c8", "#79706e", "#fabfd2"),
)


def label_colours(labels: Sequence[str]) -> dict[str, str]:
    """Assign a colour to every label; with more labels than colours they repeat."""
    return {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)}


def read_scripts(folder: str, names: Sequence[str]) -> str:
    """Join the scripts of a folder of `templates`; together they are one module."""
    paths = [TEMPLATES / folder / f"{name}.js" for name in names]
    return "\n".join(path.read_text("utf-8") for path in paths)


def write_page(template: str, path: Path, **values: Any) -> Path:
    """Write what `render_page` returns to a file. Returns the path of the page."""
    write_text(render_page(template, **values), path)
    return path


def render_page(
    template: str,
    *,
    styles: Sequence[str] = ("style.css",),
    script: str = "",
    served: bool = False,
    **values: Any,
) -> str:
    """
    Render a template of the folder `templates`.

    Args:
        template: file name of the template.
        styles: stylesheets of that folder.
        script: the script of the page, an ES module; none by default.
        served: whether the page may make requests to its own server.
        **values: variables of the template.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

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
    style = "\n".join((TEMPLATES / name).read_text("utf-8") for name in styles)
    return environment.get_template(template).render(
        values,
        # both are files of this package
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=_content_security_policy(style, script, served=served),
    )


def _content_security_policy(style: str, script: str, *, served: bool) -> str:
    """Allow the stylesheet, the script, and images beside the page or requests to its server."""
    own = "'self'" if served else "'none'"
    sources = {
        "default-src": "'none'",
        "img-src": "'self'" if served else "'self' file:",
        "media-src": own,
        "connect-src": own,
        "style-src": _hash_source(style),
        "script-src": _hash_source(script) if script else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{directive} {allowed}" for directive, allowed in sources.items())


def _hash_source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


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
