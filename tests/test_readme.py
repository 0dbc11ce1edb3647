"""The README says what is true: its tables are made from the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from flows.cli.app import make_app
from pipeline.records import STATUSES
from pipeline.results.schemas import SCHEMAS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def between(name: str, text: str = README) -> str:
    """Text between the marks of a generated part."""
    found = re.search(f"<!-- {name}: begin -->\n(.*)<!-- {name}: end -->", text, re.DOTALL)
    return found[1].strip()


def test_columns_are_those_of_the_schemas():
    rows = [
        f"| `{name}` | {', '.join(f'`{c}`' for c in SCHEMAS[name].names)} |" for name in SCHEMAS
    ]

    assert between("columns") == "\n".join(["| table | columns |", "| --- | --- |", *rows])


def test_statuses_are_those_of_the_code():
    rows = [f"| `{status}` | {meaning} |" for status, meaning in STATUSES.items()]

    assert between("statuses") == "\n".join(["| status | what it means |", "| --- | --- |", *rows])


def test_the_file_map_is_the_tree():
    named = set(re.findall(r"[├└]── ([a-z_]+(?:\.py|/))", README))
    there = {
        path.name + ("/" if path.is_dir() else "")
        for folder in ("pipeline", "flows")
        for path in (ROOT / folder).iterdir()
        if not path.name.startswith(("__", "py.")) and (path.is_dir() or path.suffix == ".py")
    }

    assert named == there


def defined(tree: ast.AST) -> dict[str, ast.FunctionDef]:
    """Give the tests of a file by name; those of a class behind its name."""
    found = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{name}": test for name, test in defined(node).items()}
    return found


def is_slow(test: ast.FunctionDef, file: ast.Module) -> bool:
    """Whether the default suite leaves a test out, all of its parameters."""
    whole_file = "pytestmark = pytest.mark.slow" in map(ast.unparse, file.body)
    return whole_file or "pytest.mark.slow" in map(ast.unparse, test.decorator_list)


def test_it_is_short():
    """Depth is in the READMEs of the folders."""
    assert sum(len(line.split()) for line in README.split("\n") if line[:1] != "|") <= 1800
    assert len(between("promises").splitlines()[2:]) <= 15


@pytest.mark.parametrize("file", ["README.md", "tests/README.md"])
def test_every_promise_names_a_test_and_how_it_is_run(file):
    promises = between("promises", (ROOT / file).read_text()).splitlines()[2:]

    for promise in promises:
        named = re.search(r"\| `([\w/]+\.py)::([\w:]+)`( \*)? \|$", promise)
        assert named, promise
        file = ast.parse((ROOT / "tests" / named[1]).read_text())
        tests = defined(file)
        assert named[2] in tests, promise
        assert is_slow(tests[named[2]], file) == bool(named[3]), promise
    assert promises


def test_every_command_is_named():
    commands = [name for name in make_app() if not name.startswith("-")]

    assert [name for name in commands if f"clipline {name}" not in README] == []
    assert "novelty" in commands


def test_relative_links_lead_somewhere():
    readmes = [path for path in ROOT.rglob("README.md") if ".venv" not in path.parts]
    links = [
        (path.parent / link)
        for path in readmes
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    ]

    assert len(readmes) > 5
    assert [link for link in links if not link.exists()] == []


class TestDocker:
    """The compose file keeps its promises; no engine is needed to read it."""

    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    dockerfile = (ROOT / "docker/Dockerfile").read_text()

    def test_services_are_read_only_and_drop_all_rights(self):
        for name in ("server", "worker"):
            service = self.compose["services"][name]
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]

    def test_the_image_does_not_run_as_root(self):
        assert self.dockerfile.rstrip().split("FROM")[-1].index("\nUSER clipline") > 0

    def test_the_server_requires_a_password(self):
        server, worker = (self.compose["services"][n]["environment"] for n in ("server", "worker"))
        auth_string = server["PREFECT_SERVER_API_AUTH_STRING"]
        assert auth_string.startswith("clipline:${PREFECT_PASSWORD:?")  # compose fails without it
        assert worker["PREFECT_API_AUTH_STRING"] == auth_string

    def test_the_server_is_reached_from_this_machine_only(self):
        assert self.compose["services"]["server"]["ports"] == ["127.0.0.1:4200:4200"]

    def test_the_worker_runs_a_command_that_exists(self):
        command = self.compose["services"]["worker"]["command"]
        _, bound, _ = make_app().parse_args(command)

        assert bound.arguments["videos"]
