"""The long-lived server of `clipline serve`, and how other commands find it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.server.api import publish_api, published_api
from flows.server.embedded import EmbeddedServer, embedded_api
from flows.server.environment import configure_environment, selected_url, state_folder
from flows.signals import BROKEN, DEFAULT_HANDLERS, SignalWatch, exit_now, signal_handlers
from pipeline.config import RunOptions
from pipeline.errors import OptionError
from pipeline.storage import redact_url

STOP_SECONDS = 3.7
"""As `flows.signals.STOP_SECONDS`: Prefect looks after 3 s whether a run in flight has ended."""


def serve_forever(
    sources: list[str],
    out: Path,
    options: RunOptions,
    name: str,
    cron: str | None,
    timezone: str = "UTC",
) -> None:
    """
    Register a job, and run it on schedule and when triggered, until SIGINT or SIGTERM.

    Raises:
        Interrupted: by the signal.
        OptionError: the schedule is not valid.
        MachineError: the server does not start.
    """
    watch = SignalWatch(STOP_SECONDS)
    with watch, embedded_api(state_folder(), with_ui=True, on_failure=_fail) as server:
        if server is not None:
            server.wait_until_ready()
            with contextlib.suppress(OSError, ValueError):
                server.cleanup_runs()
        from flows.deployments import schedule_of, serve

        schedule = schedule_of(cron, timezone) if cron else None
        with _published(server) as file:
            when = f"at {cron!r} ({timezone})" if cron else "when triggered"
            page = redact_url(os.environ["PREFECT_API_URL"]).removesuffix("/api")
            sys.stdout.write(f"serving {name} {when}: {page}\n")
            sys.stdout.write(f"run it now: clipline trigger {name}\n")
            if file is not None:
                sys.stdout.write(f"to log in to the page, enter the auth_string in {file}\n")
            sys.stdout.flush()
            # Prefect handles the signals itself here: it stops the run in flight, and returns
            with signal_handlers(DEFAULT_HANDLERS):
                serve(sources, str(out), options, name, schedule)
    watch.raise_interrupted()


def _fail(message: str) -> None:
    """End `serve`, whose schedule nobody would run any more."""
    sys.stderr.write(f"clipline: {message}\n")
    exit_now(BROKEN)


@contextlib.contextmanager
def _published(server: EmbeddedServer | None) -> Iterator[Path | None]:
    if server is None:
        yield None
        return
    with publish_api(state_folder(), server.api) as file:
        yield file


def use_running_server() -> None:
    """
    Let Prefect use the server that PREFECT_API_URL names, or else that of `clipline serve`.

    Raises:
        OptionError: there is none.
    """
    state = state_folder()
    configure_environment(state / "prefect")
    if selected_url():
        return
    api = published_api(state)
    if api is None:
        raise OptionError("no server: start clipline serve, or set PREFECT_API_URL")
    api.set_environment()
