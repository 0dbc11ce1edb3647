"""Check a schedule before Prefect is imported and a server started, which takes many seconds."""

from __future__ import annotations

import re
import zoneinfo

from pipeline.errors import OptionError

FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7), (0, 59), (1970, 2099))
"""Minute, hour, day of month, month, day of week, and if given second and year: their ranges."""
MIN_FIELDS = 5
ALIASES = frozenset(
    {"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}
)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
ITEM = re.compile(
    r"(?P<all>[*?])(/[1-9]\d*)?"
    r"|(?P<first>\d+|[a-z]{3}|l)(-(?P<last>\d+|[a-z]{3}))?(/[1-9]\d*)?(#[1-5l])?"
    r"|l(?P<weekday>[0-7])"
)
"""One of the values of a field that commas separate, in lower case."""


def check_schedule(cron: str | None, timezone: str) -> None:
    """
    Check the form of a cron expression, and the time zone.

    Raises:
        OptionError: one of them is not valid.
    """
    try:
        zoneinfo.ZoneInfo(timezone)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise OptionError(
            f"--timezone {timezone!r} is not a time zone; an example is Europe/Berlin"
        ) from error
    if cron is not None and not _may_be_cron(cron):
        raise cron_error(cron)


def cron_error(cron: str) -> OptionError:
    """Create the error about a cron expression that is not valid."""
    return OptionError(
        f"--cron {cron!r} is not a cron expression; an example is '0 2 * * *' (2 a.m.)"
    )


def _may_be_cron(cron: str) -> bool:
    """Whether an expression has the form of cron; Prefect checks it completely."""
    fields = cron.lower().split()
    if fields and fields[0] in ALIASES:
        return len(fields) == 1
    if not MIN_FIELDS <= len(fields) <= len(FIELDS):
        return False
    pairs = zip(fields, FIELDS, strict=False)
    return all(_is_item(item, *limits) for field, limits in pairs for item in field.split(","))


def _is_item(item: str, lowest: int, highest: int) -> bool:
    match = ITEM.fullmatch(item)
    if not match:
        return False
    ends = [end for end in (match["first"], match["last"]) if end and end != "l"]
    return all(
        lowest <= int(end) <= highest if end.isdecimal() else end in MONTHS + WEEKDAYS
        for end in ends
    )
