"""Hostile files, lists, weights and names: nothing is executed, fetched, or written elsewhere."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions
from pipeline.encode.backbone import load_backbone
from pipeline.errors import OptionError
from pipeline.results.tables import load
from pipeline.run.process import process_videos
from tests.resilience.commands import ROOT
from tests.videos import write_video

SOURCES = sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("flows/**/*.py")])
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
UNSAFE = {
    ("os", "system"),
    ("os", "popen"),
    ("pd", "read_pickle"),
    ("yaml", "load"),
    ("subprocess", "getoutput"),
    ("tempfile", "mktemp"),
}
AUDIT = ROOT / "tests" / "resilience" / "audit"


def found_in(tree: ast.AST) -> list[str]:
    """List calls and imports in a parsed file that could execute foreign code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += _unsafe_call(node)
    return found


def _unsafe_call(call: ast.Call) -> list[str]:
    keywords = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
    if keywords.get("shell") or keywords.get("allow_pickle"):
        return [ast.unparse(call)]
    if isinstance(call.func, ast.Name):
        return [call.func.id] if call.func.id in RUNS_TEXT else []
    if not isinstance(call.func, ast.Attribute):
        return []
    owner = ast.unparse(call.func.value)
    if (owner, call.func.attr) == ("torch", "load"):
        return [] if keywords.get("weights_only") else ["torch.load without weights_only"]
    return [f"{owner}.{call.func.attr}"] if (owner, call.func.attr) in UNSAFE else []


class TestCode:
    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
    def test_code_does_not_execute_input(self, path):
        assert found_in(ast.parse(path.read_text())) == []

    @pytest.mark.parametrize(
        "text",
        [
            "import pickle",
            "from cloudpickle import loads",
            "eval(text)",
            "subprocess.run(line, shell=True)",
            "torch.load(path)",
            "torch.load(path, weights_only=False)",
            "np.load(path, allow_pickle=True)",
            "os.system(line)",
        ],
    )
    def test_forbidden_calls_are_found(self, text):
        assert found_in(ast.parse(text)) != []

    def test_every_dependency_has_a_known_minimum(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = [*project["dependencies"]]
        for extra in project["optional-dependencies"].values():
            wanted += extra

        stubs = {"pandas-stubs", "pyarrow-stubs"}
        assert [name for name in wanted if ">=" not in name and name not in stubs] == []


class Evil:
    """Creates a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_weights_that_are_pickles_are_refused(tmp_path):
    folder, trace = tmp_path / "backbone", tmp_path / "was here"
    folder.mkdir()
    described = {"architecture": "test_resnet", "pretrained_cfg": {}, "num_classes": 10}
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Evil(trace)}))

    with pytest.raises(OptionError, match="could not be loaded"):
        load_backbone(f"local-dir:{folder}")

    assert not trace.exists()


def everything(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.glob("**/*")}


def test_lists_cannot_write_outside_the_results(tmp_path, tiny_recognizer, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "out" / "cache"))
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    write_video(tmp_path / "up.mp4", 6)
    names = ["../../up.mp4", str(tmp_path / "up.mp4"), "../../../../etc/passwd", "/dev/null"]
    names += ["../../out/clips/part-x.parquet", "-o", "~root/x.mp4", "x" * 5000]
    (deep / "list.csv").write_text("video\n" + "\n".join(f'"{name}"' for name in names))
    before = everything(tmp_path)

    process_videos(
        [str(deep / "list.csv")],
        tmp_path / "out",
        RunOptions(
            recognizer=str(tiny_recognizer),
            decode=DecodeOptions(workers=1),
            encode=EncodeOptions(precision="float32"),
        ),
    )

    after = everything(tmp_path)
    added = [path.relative_to(tmp_path) for path in after.keys() - before.keys()]
    assert {path.parts[0] for path in added} == {"out"}
    assert {path: after[path] for path in before} == before
    parts = [path.name for path in (tmp_path / "out").glob("*/part-*")]
    assert all(re.fullmatch(r"part-[0-9a-f]{16}-[0-9a-f]{16}\.parquet", name) for name in parts)
    statuses = load(tmp_path / "out", "videos").set_index("video").status
    assert statuses["../../up.mp4"] == "ok"
    assert set(statuses.drop(["../../up.mp4"])) <= {"missing", "unreadable", "not_video"}


@pytest.fixture
def alone():
    """Command prefix that runs a command in a network with loopback only, if permitted."""
    isolate = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c")
    before = (*isolate, 'ip link set lo up && exec "$@"', "sh")
    try:
        let = subprocess.run([*before, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        let = False
    return before if let else ()


def test_a_run_connects_only_to_loopback(clipline, alone, tiny_recognizer, tmp_path):
    """A whole run, with its server and decode processes."""
    write_video(tmp_path / "a.mp4", 12)
    record = tmp_path / "record"

    ended = clipline(
        *("run", tmp_path / "a.mp4", "-o", tmp_path / "out", "--recognizer", tiny_recognizer),
        before=alone,
        AUDIT=str(record),
        PYTHONPATH=str(AUDIT),
    )

    assert ended.code == 0, ended.err
    spoken = [line.rsplit(" ", 2) for line in record.read_text().splitlines()]
    assert {host for _, host, _ in spoken} <= {"127.0.0.1", "localhost", "::1"}
    assert ["socket.bind", "127.0.0.1", "0"] in spoken  # the port is one that happened to be free
    served = {port for event, _, port in spoken if event == "socket.bind" and port != "0"}
    assert len(served) == 1
    assert served <= {port for event, _, port in spoken if event == "socket.connect"}


def test_the_audit_hook_records_and_forbids_connections(tmp_path):
    """Otherwise the test before would prove nothing."""
    record = tmp_path / "record"
    completed = subprocess.run(
        ["python3", "-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"],
        env={**os.environ, "AUDIT": str(record), "PYTHONPATH": str(AUDIT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "is forbidden here" in completed.stderr
    assert "192.0.2.1" in record.read_text()


def test_secrets_of_a_server_url_are_not_shown(clipline, tiny_recognizer, tmp_path):
    write_video(tmp_path / "a.mp4", 12)
    out = tmp_path / "out"

    ended = clipline(
        *("run", tmp_path / "a.mp4", "-o", out, "--recognizer", tiny_recognizer),
        PREFECT_API_URL="http://someone:hunter2@127.0.0.1:9/api",
        PREFECT_API_KEY="hunter2",
    )

    assert ended.code == 1
    assert "no answer from http://127.0.0.1:9/api" in ended.err
    assert "start that server, or unset PREFECT_API_URL" in ended.err
    texts = [ended.out, ended.err, *(p.read_text() for p in out.glob("*.*"))]
    assert not [text for text in texts if "hunter2" in text]
    assert "Traceback" not in ended.err


def test_secrets_of_urls_in_lists_are_not_stored(tmp_path, tiny_recognizer, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = "https://someone:hunter2@example.com/a.mp4?token=hunter2"
    write_video(tmp_path / "b.mp4", 12)
    (tmp_path / "list.txt").write_text(f"{address}\nb.mp4\n")
    options = RunOptions(recognizer=str(tiny_recognizer), decode=DecodeOptions(workers=1))

    process_videos([str(tmp_path / "list.txt")], tmp_path / "out", options)

    rows = load(tmp_path / "out", "videos").set_index("video")
    assert rows.status.to_dict() == {"https://example.com/a.mp4": "missing", "b.mp4": "ok"}
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [data for data in written if b"hunter2" in data]
    assert "hunter2" not in rows.to_csv()
