"""
Prefect's settings in environment variables: no network, nothing in `~/.prefect`.

Import nothing of Prefect before `configure_environment`: it reads its environment when imported.
"""

from __future__ import annotations

import os
from pathlib import Path

_RECORDER = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_"
ENVIRONMENT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # errors are reported by our own messages, once
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # seconds until a triggered run starts
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "1 day",
    # The default batch size of 1 stores 65 task runs a second and delays every request meanwhile.
    _RECORDER + "BATCH_SIZE": "100",
    _RECORDER + "READ_BATCH_SIZE": "100",
    _RECORDER + "FLUSH_INTERVAL": "1",  # below 1 the server spins
}
UNUSED_SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)
"""Services for schedules, workers and automations, which the server of one run does not need: half
of the CPU time of an idle server."""


def state_folder() -> Path:
    """Return the folder of run history and locks, in the user's state directory."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "clipline"


def configure_environment(home: Path) -> None:
    """Set Prefect's environment variables; those that the user has set stay."""
    os.environ.setdefault("PREFECT_HOME", str(home))
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def selected_url() -> str | None:
    """Return the URL of the server that the user selected by PREFECT_API_URL, if any."""
    return os.environ.get("PREFECT_API_URL") or None
