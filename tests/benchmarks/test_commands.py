"""Whole commands are timed, and start-up is measured with them."""

from __future__ import annotations

import sys

import pytest

from pipeline.errors import MachineError
from tests.benchmarks.commands import finish_command, start_command, time_command
from tests.benchmarks.output import print_values
from tests.benchmarks.startup import measure_startup


def test_a_command_is_timed(tmp_path):
    seconds, printed = time_command(["--help"], tmp_path)

    assert "Usage" in printed
    assert 0 < seconds < 60


def test_json_is_parsed(tmp_path):
    _, printed = time_command(["recognizers", "--json"], tmp_path)

    assert "camera-motion" in str(printed)


def test_errors_of_a_command_are_raised(tmp_path):
    process = start_command(["run", str(tmp_path / "nothing"), "-o", str(tmp_path)], tmp_path)

    with pytest.raises(MachineError, match="nothing"):
        finish_command(process)


def test_values_are_printed_as_a_table_or_as_json(capsys):
    values = {"run_seconds": 1.23456, "timings": {"start up": 2.0}}

    print_values(values, as_json=False)
    table = capsys.readouterr().out
    print_values({"a": 1}, as_json=True)

    assert table == "run seconds        1.235\ntimings: start up  2\n"
    assert capsys.readouterr().out == '{\n  "a": 1\n}\n'


@pytest.mark.parametrize(
    "name", ["startup", "scale", "long", "naive", "compare_runs", "compare_commits", "training"]
)
def test_every_benchmark_has_help_with_its_command(name, capsys, monkeypatch):
    module = __import__(f"tests.benchmarks.{name}", fromlist=["main"])
    monkeypatch.setattr(sys, "argv", [name, "--help"])

    with pytest.raises(SystemExit):
        module.main()

    assert f"python -m tests.benchmarks.{name}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_start_is_measured_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    found = measure_startup([], tmp_path, 1)

    assert found["videos"] == 3
    assert 0 < found["help_seconds"] < found["run_seconds"]
    parts = found["timings_seconds"]["startup"]
    assert {"interpreter", "imports", "engine", "waiting for the API"} <= set(parts)
