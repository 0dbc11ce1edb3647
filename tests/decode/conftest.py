"""Fixtures with decode processes."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from pipeline.config import DecodeOptions
from pipeline.decode.process_pool import DecodeProcess


@pytest.fixture(scope="session")
def forced_process():
    """Decode processes that try a given reader first, one per reader."""
    made = {}

    def forced(reader):
        if reader not in made:
            made[reader] = DecodeProcess(DecodeOptions(reader=reader, frame_timeout_seconds=20))
        return made[reader]

    yield forced
    for process in made.values():
        process.kill()


@pytest.fixture
def start_process():
    """Start decode processes with options of the test; they end with it."""
    made = []

    def start(**options):
        made.append(DecodeProcess(DecodeOptions(**{"frame_timeout_seconds": 20, **options})))
        return made[-1]

    yield start
    for process in made:
        process.kill()


@pytest.fixture
def set_options():
    """Change options of a decode process between two jobs."""

    def set_options(process, **options):
        process.options = replace(process.options, **options)

    return set_options


@pytest.fixture
def pipe(tmp_path):
    """A file whose opening blocks for ever, inside the operating system."""
    os.mkfifo(tmp_path / "pipe.mp4")
    return tmp_path / "pipe.mp4"


@pytest.fixture
def fake_decord(tmp_path, monkeypatch):
    """Let decode processes that start later import a fake module `decord`."""

    def install(next_frame):
        folder = tmp_path / "modules"
        folder.mkdir()
        (folder / "decord.py").write_text(
            "import os, signal, time, types, numpy\n"
            "class DECORDError(Exception): pass\n"
            "class DECORDLimitReachedError(Exception): pass\n"
            "logging = types.SimpleNamespace(ERROR=0, set_level=lambda level: None)\n"
            "class VideoReader:\n"
            "    def __init__(self, *_, **__): pass\n"
            f"    def next(self): {next_frame}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return install
