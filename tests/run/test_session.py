"""How many shards are processed at the same time."""

from __future__ import annotations

import pytest

from pipeline.config import ShardOptions
from pipeline.run import session as module
from pipeline.run.session import fitting_window


@pytest.mark.parametrize(("gib", "expected"), [(64, 9), (8, 4), (1, 2)])
def test_window_follows_the_memory_of_a_container(monkeypatch, gib, expected):
    monkeypatch.setattr(module, "available_memory_bytes", lambda: gib << 30)

    assert fitting_window(ShardOptions(max_bytes=1 << 29), workers=8) == expected
