"""The command `trigger`: run a served job now."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import SWITCH
from flows.signals import BROKEN


def trigger(
    name: Annotated[
        str | None, Parameter(help="Name of the served job; required if several are served.")
    ] = None,
    /,
    *,
    wait: Annotated[bool, SWITCH, Parameter(help="Wait for the run to end.")] = False,
) -> int:
    """Run a served job now, and print the id of the run."""
    from flows.cli.console import print_error, print_line
    from flows.server.service import use_running_server

    use_running_server()
    from flows import deployments

    run_id, _ = deployments.trigger(name)
    print_line(str(run_id))
    if wait:
        for state in deployments.follow(run_id):
            print_error(f"{state.name}: {state.message}" if state.message else state.name)
            if state.is_final() and not state.is_completed():
                return BROKEN
    return 0
