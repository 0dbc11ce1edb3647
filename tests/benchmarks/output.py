"""Arguments and output that all benchmarks share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser whose help page is the docstring of the module."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def print_values(values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print measured values as a table of two columns, or as JSON."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    rows = list(_rows(values))
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{name:{width}}  {text}")


def _rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, Mapping):
            yield from _rows(value, f"{name}: ")
        else:
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
