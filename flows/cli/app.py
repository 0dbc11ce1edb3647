"""
The command line: which commands there are, and how they end.

Exit codes: 0 all good, 1 broken, 2 usage, 3 finished but some videos could not be fully decoded,
130 and 143 stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from flows.cli import bench, diagnose, evaluate, inspect, run, serve, train
from flows.signals import BROKEN, USAGE, Interrupted, report_and_exit, stop_on_signals
from pipeline.errors import InputError, PipelineError

app = typer.Typer(
    help="Videos and image sequences to labelled rows in Parquet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import importlib.metadata

        sys.stdout.write(importlib.metadata.version("clipline") + "\n")
        raise typer.Exit
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    del context


app.command()(run.run)
app.command()(run.features)
app.command()(run.retry)
app.command()(inspect.inspect)
app.command()(inspect.doctor)
app.command()(inspect.recognizers)
app.command()(serve.serve)
app.command()(serve.trigger)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(diagnose.diagnose)
app.command()(diagnose.cells)
app.add_typer(diagnose.novelty, name="novelty")
app.command()(bench.bench)


def main() -> None:
    """Run the command line, and turn a stop into words and an exit code."""
    try:
        with stop_on_signals():
            sys.exit(_run_app())
    except Interrupted as interrupted:
        report_and_exit(interrupted)


def _run_app() -> int:
    """Run a command, and turn what the user can mend into a message and an exit code."""
    try:
        return app(standalone_mode=False) or 0
    except typer.Abort:
        return 130
    except InputError as error:
        sys.stderr.write(f"clipline: {error}\n")
        return USAGE
    except PipelineError as error:
        sys.stderr.write(f"clipline: {error}\n")
        return BROKEN
    except Exception as error:
        if hasattr(error, "show"):  # typer's own complaint about usage
            error.show()
            return USAGE
        raise


if __name__ == "__main__":
    main()
