"""Who may import whom: read from the files, and held against the table below."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RANKS = {
    "pipeline.errors": 0,
    "pipeline.records": 0,
    "pipeline.machine": 0,
    "pipeline.progress": 0,
    "pipeline.config": 1,
    "pipeline.storage": 1,
    "pipeline.sources": 2,
    "pipeline.encode": 2,
    "pipeline.temporal": 2,
    "pipeline.decode": 3,
    "pipeline.recognition": 3,
    "pipeline.results": 4,
    "pipeline.anomaly": 4,
    "pipeline.diagnostics": 5,
    "pipeline.run": 5,
    "pipeline.training": 6,
    "pipeline.bench": 6,
    "pipeline.evaluation": 7,
    "pipeline.browse": 8,
    "flows": 9,
    "flows.server": 10,
    "flows.cli": 11,
}
"""A file imports from its own folder and from lower ranks: stages of one rank ignore each other."""
LIBRARIES = ("pipeline.temporal", "pipeline.results")
"""The only packages that offer names: what users import."""
ONLY_IN = {
    "jinja2": ("pipeline.results",),
    "prefect": ("flows",),
    "cyclopts": ("flows.cli",),
    "docstring_parser": ("flows.cli",),
    "rich": ("flows.cli",),
    "decord": ("pipeline.decode",),
    "av": ("pipeline.decode", "pipeline.bench", "pipeline.browse"),
    "cv2": ("pipeline.decode", "pipeline.sources", "pipeline.browse"),
    "starlette": ("pipeline.browse", "flows.cli.view"),  # the latter for types only
    "openvino": ("pipeline.encode",),
    "sklearn": ("pipeline.evaluation",),
    "timm": ("pipeline.encode", "pipeline.training.finetune"),
    "torch": (
        *("pipeline.encode", "pipeline.temporal", "pipeline.recognition", "pipeline.anomaly"),
        *("pipeline.diagnostics", "pipeline.training", "pipeline.bench", "pipeline.evaluation"),
        "pipeline.config",  # which device there is
    ),
}
"""Libraries, and the only places that import them."""


@dataclass(frozen=True)
class Import:
    """One import of one module."""

    by: str
    of: str
    late: bool
    """Inside a function, or for type checkers only: not when the module is imported."""


def modules():
    """Give the files of the project by the names under which they are imported."""
    files = [path for folder in ("pipeline", "flows") for path in (ROOT / folder).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = modules()


def is_late(parents):
    return any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for node in parents
    )


def walk(node, parents=()):
    yield node, parents
    for child in ast.iter_child_nodes(node):
        yield from walk(child, (*parents, node))


def targets(node):
    """Tell which modules a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0, "imports are written in full"
    inner = [f"{node.module}.{alias.name}" for alias in node.names]
    found = [name for name in inner if name in MODULES]
    # `from pipeline import process` needs no more of `pipeline` than that it is there
    return found if len(found) == len(inner) else [node.module, *found]


def imports():
    return [
        Import(name, target, is_late(parents))
        for name, path in MODULES.items()
        for node, parents in walk(ast.parse(path.read_text("utf-8")))
        for target in targets(node)
    ]


IMPORTS = imports()


def home(module):
    """Give the row of the table that a module belongs to."""
    rooms = [name for name in RANKS if module == name or module.startswith(name + ".")]
    return max(rooms, key=len, default=None)


def within(module, folders):
    return any(module == folder or module.startswith(folder + ".") for folder in folders)


def test_the_test_sees_the_imports():
    """An empty list would pass everything below."""
    assert Import("pipeline.config", "pipeline.errors", late=False) in IMPORTS
    assert Import("pipeline.decode.readers.decord", "decord", late=True) in IMPORTS
    assert Import("flows.tasks", "pipeline.run.process", late=False) in IMPORTS
    assert len(IMPORTS) > 200


def test_every_file_has_a_rank():
    homeless = {name for name in MODULES if home(name) is None}

    assert homeless == {"pipeline"}  # an empty sign


def test_every_rank_has_a_file():
    assert {home(name) for name in MODULES} - {None} == set(RANKS)


def test_only_lower_ranks_are_imported():
    wrong = []
    for found in IMPORTS:
        by, of = home(found.by), home(found.of)
        if by and of and by != of and RANKS[of] >= RANKS[by]:
            wrong.append(f"{found.by} (rank {RANKS[by]}) imports {found.of} (rank {RANKS[of]})")

    assert wrong == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_where_it_belongs(library):
    users = {found.by for found in IMPORTS if found.of.split(".")[0] == library}

    assert users
    assert {user for user in users if not within(user, ONLY_IN[library])} == set()


def test_no_module_imports_itself_by_a_detour():
    graph = {name: set() for name in MODULES}
    for found in IMPORTS:
        if found.of in MODULES and not found.late:
            graph[found.by].add(found.of)

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' → '.join(error.args[1])}")


def test_packages_are_signs_without_code():
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name not in LIBRARIES:
            statements = ast.parse(path.read_text("utf-8")).body
            assert all(isinstance(node, ast.Expr) for node in statements), name


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_only_names_what_it_offers(library):
    statements = list(ast.walk(ast.parse(MODULES[library].read_text("utf-8"))))
    offered = {
        alias.name
        for s in statements
        if isinstance(s, ast.ImportFrom) and within(str(s.module), [library])
        for alias in s.names
    }
    listed = importlib.import_module(library).__all__

    defined = [s.name for s in statements if isinstance(s, (ast.ClassDef, ast.FunctionDef))]
    assert set(defined) <= {"__getattr__"}
    assert listed == sorted(offered)
    assert all(hasattr(importlib.import_module(library), name) for name in listed)


def loaded_by(module):
    """Tell which modules a fresh Python has after it has imported one."""
    code = f"import sys, {module}; print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in said.stdout.split()}


def test_a_decode_process_loads_no_network_library():
    """Dozens may run beside each other, and each is started anew when one is killed."""
    loaded = loaded_by("pipeline.decode.worker")

    assert {"av", "cv2"} <= loaded
    assert not loaded & {"torch", "timm", "openvino", "prefect", "pandas", "pyarrow"}


def test_the_command_line_answers_before_anything_heavy_is_loaded():
    loaded = loaded_by("flows.cli.app")

    assert "cyclopts" in loaded
    assert not loaded & {"torch", "prefect", "pandas", "pyarrow", "cv2", "av", "openvino"}


def test_the_work_runs_without_prefect():
    loaded = loaded_by("pipeline.run.process, pipeline.results.report, pipeline.decode.doctor")

    assert "torch" in loaded
    assert not loaded & {"prefect", "flows", "cyclopts"}
    assert not loaded & {"timm", "openvino", "decord"}  # only once they are needed
