from __future__ import annotations

from tests.bench.conftest import backbone, clips, one_worker
from tests.flows.conftest import api, state

__all__ = ["api", "backbone", "clips", "one_worker", "state"]
