"""The command `retry`: process failed videos again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.derive import Given, takes
from flows.cli.options import DECODING, AsJson, Quiet
from flows.cli.run import Output, run_and_exit
from pipeline.config import DecodeOptions, RunOptions
from pipeline.errors import OptionError, SourceError

ResultsFolder = Annotated[Path, Parameter(help="Results folder.")]


@takes(DECODING.change(**{name: {"default": "as in the last run"} for name in DECODING.options}))
def retry(
    out: ResultsFolder,
    /,
    *,
    status: Annotated[
        str,
        Parameter(help="Statuses to retry, separated by commas.", show_default="all but ok"),
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
    given: Given,
) -> None:
    """Process the failed videos of the last run on OUT again, for example with other limits."""
    from pipeline.records import STATUSES
    from pipeline.results.tables import read_run

    last = read_run(out)
    if not last:
        raise OptionError(f"{out} holds no results: no run.json")
    chosen = [name.strip() for name in status.split(",") if name.strip()]
    options = RunOptions.from_json(last["options"])
    options = replace(
        options,
        retry=tuple(chosen or sorted(set(STATUSES) - {"ok"})),
        decode=replace(options.decode, **given[DecodeOptions]),
    )
    out = out.absolute()
    with _working_folder(last["working_folder"], last["sources"]):
        run_and_exit(last["sources"], out, options, Output(as_json, quiet))


@contextlib.contextmanager
def _working_folder(folder: str, sources: list[str]) -> Iterator[None]:
    """Change to the working folder of the last run: its paths are relative to it."""
    if os.path.isdir(folder):
        with contextlib.chdir(folder):
            yield
    elif all(map(os.path.isabs, sources)):
        yield
    else:
        raise SourceError(
            f"the paths of the last run are relative to {folder}, which does not exist: "
            "pass them to clipline run again"
        )
