"""
The command line: its commands, and its exit codes.

Exit codes: 0 success, 1 error, 2 usage error, 3 some videos could not be fully decoded, 130 and 143
stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

from flows.signals import BROKEN, USAGE, Interrupted, report_and_exit, stop_on_signals
from pipeline.errors import InputError, PipelineError

COMMANDS = (
    *(
        "run",
        "features",
        "retry",
        "forget",
        "inspect",
        "view",
        "label",
        "doctor",
        "recognizers",
        "serve",
        "trigger",
    ),
    *("train", "evaluate", "diagnose", "cells", "bench"),
)
"""Each is a function in the module of `flows.cli` with its name, imported when it is needed."""


def make_app() -> App:
    """Create the command line."""
    app = App(
        name="clipline",
        help="Videos and image sequences to labelled rows in Parquet.",
        help_format="plaintext",
        version=_version,
        # of a repeated option the last value is used, and switches have no --no- form
        default_parameter=Parameter(allow_repeating=True, negative=()),
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        sort_key=0,
    )
    for number, name in enumerate(COMMANDS):
        app.command(f"flows.cli.{name}:{name}", name=name, sort_key=number)
    novelty = App(name="novelty", help="Score how unusual videos are.", sort_key=len(COMMANDS))
    novelty.command("flows.cli.novelty:fit", name="fit")
    app.command(novelty)
    app.register_install_completion_command(help="Install completion for the current shell.")

    @app.command(name="--show-completion")
    def show_completion() -> None:
        """Print the completion script of the current shell."""
        sys.stdout.write(app.generate_completion())

    return app


def _version() -> str:
    import importlib.metadata

    return importlib.metadata.version("clipline")


def main() -> None:
    """Run the command line; after a signal, print a message and exit with its code."""
    try:
        with stop_on_signals():
            sys.exit(run_command(sys.argv[1:]))
    except Interrupted as interrupted:
        report_and_exit(interrupted)


def run_command(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; print errors of the user in one sentence."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        app = make_app()
        if not arguments or arguments[0].startswith("-"):
            for name in COMMANDS:
                app[name]  # import all commands: the help page shows their docstrings
        command, bound, _ = app.parse_args(arguments)
        result = command(*bound.args, **bound.kwargs)
    except CycloptsError as error:
        return _report(_usage_message(error), USAGE)
    except InputError as error:
        return _report(str(error), USAGE)
    except PipelineError as error:
        return _report(str(error), BROKEN)
    if getattr(command, "__func__", None) is App.help_print and not _asks_for_help(arguments):
        return USAGE  # no command was given
    return result if isinstance(result, int) else 0


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return not {"-h", "--help"}.isdisjoint(arguments)


def _report(message: str, code: int) -> int:
    sys.stderr.write(f"clipline: {message}\n")
    return code


def _usage_message(error: CycloptsError) -> str:
    """Return one sentence about invalid arguments."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument: {' '.join(error.unused_tokens)}"
    if isinstance(error, MissingArgumentError) and error.argument and not error.keyword:
        command = " ".join(error.command_chain or ())
        return f"missing argument: {error.argument.name}, see clipline {command} --help"
    return str(error)


if __name__ == "__main__":
    main()
