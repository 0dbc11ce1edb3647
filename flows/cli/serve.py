"""The command `serve`: run the same job on a schedule, and whenever it is triggered."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Group, Parameter

from flows.cli.derive import Given, takes
from flows.cli.options import (
    CLIPS,
    DECODING,
    ENCODING,
    RECOGNIZER_SAMPLING,
    Out,
    Videos,
    run_options,
)
from flows.cli.run import LABELLING, RUN_FIELDS

SCHEDULE = Group("Schedule", sort_key=0)


@takes(LABELLING.only(*RUN_FIELDS), RECOGNIZER_SAMPLING, CLIPS, ENCODING, DECODING)
def serve(
    *videos: Videos,
    out: Out,
    cron: Annotated[
        str | None,
        Parameter(
            help="When to run, such as '0 2 * * *' (daily at 2 a.m.).",
            show_default="only when triggered",
            group=SCHEDULE,
        ),
    ] = None,
    timezone: Annotated[
        str, Parameter(help="Time zone of the schedule, such as Europe/Berlin.", group=SCHEDULE)
    ] = "UTC",
    name: Annotated[
        str | None,
        Parameter(help="Name for trigger.", show_default="that of OUT", group=SCHEDULE),
    ] = None,
    given: Given,
) -> None:
    """Run the same job on a schedule, and whenever it is triggered, until stopped.

    Starts its own Prefect server unless PREFECT_API_URL is set. A run waits for other runs on OUT.
    """
    from flows.schedules import check_schedule
    from flows.server.service import serve_forever
    from pipeline.sources.discovery import absolute

    check_schedule(cron, timezone)
    options = replace(run_options(given), wait=True)
    places = [absolute(video) for video in videos]
    out = out.absolute()
    serve_forever(places, out, options, name or out.name, cron, timezone)
