from __future__ import annotations

import pytest

from tests.browse.example_results import write_results, write_sources


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("browse") / "videos")


@pytest.fixture(scope="session")
def out(tmp_path_factory, sources):
    return write_results(tmp_path_factory.mktemp("browse") / "out", sources)
