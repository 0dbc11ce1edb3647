"""Schedules are checked before a server is started."""

from __future__ import annotations

import sys

import pytest

from flows.cli.app import run_command
from flows.schedules import check_schedule
from pipeline.errors import OptionError

ACCEPTED = (
    *("0 2 * * *", "*/15 8-18 * * mon-fri", "0 0 1,15 * *", "5/10 * * * *", "@daily"),
    *("* * * * * */20", "0 2 * JAN,Jul 7", "0 2 l * *", "0 2 * * fri#2", "0 2 * * l5"),
    "0 2 * * * 0 2027",
)
"""By Prefect, too: see `test_deployments.py`."""


@pytest.mark.parametrize("cron", ACCEPTED)
def test_common_expressions_are_accepted(cron):
    check_schedule(cron, "Europe/Berlin")


@pytest.mark.parametrize(
    "cron",
    [
        *("at night", "0 2", "", "60 2 * * *", "0 24 * * *", "0 2 0 * *", "0 2 * 13 *"),
        *("0 2 * * 8", "0 2 * * noon", "*/0 * * * *", "0 2 * * * * * *", "2:00 * * * *", "@night"),
    ],
)
def test_other_expressions_are_refused(cron):
    with pytest.raises(OptionError, match="is not a cron expression; an example is '0 2 "):
        check_schedule(cron, "UTC")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cron", "at night"], "--cron 'at night' is not a cron expression"),
        (["--cron", "0 2 * * *", "--timezone", "Mars"], "--timezone 'Mars' is not a time zone"),
        (["--timezone", "Mars"], "--timezone 'Mars' is not a time zone"),
    ],
)
def test_serve_refuses_them_before_a_server_starts(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "flows.deployments", None)  # importing it would fail

    assert run_command(["serve", str(tmp_path), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err
