"""The layout: few rooms, small files, short functions, one file for each command, no globals."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "flows")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
NOT_COMMANDS = {"__init__", "app", "console", "options", "derive", "dataset", "bench_runs"}
"""Files of `flows/cli` that commands share."""
MUTABLE = {"dict", "list", "set", "defaultdict", "deque", "Lock", "RLock", "Event", "local"}
"""Calls that make mutable objects."""


def parse(path):
    return ast.parse(path.read_text("utf-8"))


def name_of(path):
    return str(path.relative_to(ROOT))


def test_there_are_few_rooms():
    """A room is a package, or a file at the root of `pipeline`."""
    root = {path for path in FILES if path.parent == ROOT / "pipeline"}
    packages = {path.parent for path in FILES} - {ROOT / "pipeline"}

    assert len(root - {ROOT / "pipeline" / "__init__.py"}) <= 6
    assert len(packages) + len(root) - 1 <= 24


@pytest.mark.parametrize("path", FILES, ids=name_of)
class TestFile:
    def test_it_has_at_most_400_lines(self, path):
        assert path.read_text("utf-8").count("\n") <= 400

    def test_its_functions_have_at_most_50_lines(self, path):
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        found = [node for node in ast.walk(parse(path)) if isinstance(node, functions)]

        assert [f.name for f in found if f.end_lineno - f.lineno + 1 > 50] == []

    def test_it_has_no_mutable_state(self, path):
        """Constants may be dictionaries; objects that are made empty are there to be changed."""
        tree = parse(path)
        values = [n.value for n in tree.body if isinstance(n, (ast.Assign, ast.AnnAssign))]
        calls = [value for value in values if isinstance(value, ast.Call)]
        names = {getattr(call.func, "id", getattr(call.func, "attr", "")) for call in calls}
        empty = [
            v for v in values if isinstance(v, (ast.Dict, ast.List)) and not ast.unparse(v)[2:]
        ]

        assert not names & MUTABLE
        assert empty == []
        assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))


def test_every_command_has_a_file_of_its_name():
    from flows.cli.app import COMMANDS

    commands = {*COMMANDS, "novelty"}
    files = {path.stem for path in (ROOT / "flows" / "cli").glob("*.py")} - NOT_COMMANDS

    assert files == commands
