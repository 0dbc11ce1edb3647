"""Commands and videos for tests that break things."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resilience.commands import Commands
from tests.resilience.mutations import draw_sources


@pytest.fixture(scope="session")
def session_home(tmp_path_factory) -> Path:
    """Home of all commands: what the first one prepares, the next one finds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def clipline(session_home):
    """Run commands; whatever is left of them is killed."""
    commands = Commands(session_home)
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def sound(tmp_path_factory) -> list[Path]:
    """One sound video a container."""
    return draw_sources(tmp_path_factory.mktemp("sound"))
