"""Fixtures with commands and videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resilience.commands import Commands
from tests.resilience.mutations import draw_sources


@pytest.fixture(scope="session")
def session_home(tmp_path_factory) -> Path:
    """Home folder of all commands: caches of the first one are used by the next."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def clipline(session_home):
    """Run commands; their remaining processes are killed at the end."""
    commands = Commands(session_home)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def undamaged(tmp_path_factory) -> list[Path]:
    """One undamaged video per container format."""
    return draw_sources(tmp_path_factory.mktemp("sound"))
