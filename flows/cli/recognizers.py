"""The command `recognizers`: show bundled recognizers, or a saved one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from flows.cli.options import AsJson


def recognizers(
    folder: Annotated[
        Path | None,
        Parameter(help="Folder of a saved recognizer.", show_default="the bundled ones"),
    ] = None,
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the bundled recognizers, or the contents of a saved one."""
    from flows.cli.console import print_line, print_table
    from pipeline.recognition.recognizer import DESCRIPTION, bundled_recognizers, find_recognizer

    names = [str(folder)] if folder else bundled_recognizers()
    found = [json.loads((find_recognizer(name) / DESCRIPTION).read_text()) for name in names]
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for description in found:
        print_line(description["name"])
        print_table(["", ""], _facts(description))


def _facts(description: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table of a recognizer."""
    temporal, backbone = description["temporal"], description["backbone"]
    tuned = ", fine-tuned" if description.get("network") else ""
    return [
        ["labels", ", ".join(description["labels"])],
        ["sampling", json.dumps(description["sampling"])],
        ["clips", json.dumps(description["clips"])],
        ["backbone", f"{backbone['name']}{tuned}, weights {backbone['weights_hash']}"],
        ["temporal model", f"{temporal['cell']}, {temporal['layers']} × {temporal['size']}"],
        *([key, json.dumps(value)] for key, value in description["notes"].items()),
    ]
