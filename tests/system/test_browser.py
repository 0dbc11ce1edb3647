from __future__ import annotations

import shutil

import pytest

from tests.system.browser import find_chromium


@pytest.mark.parametrize(
    ("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_without_chromium_tests_are_skipped_but_fail_on_ci(monkeypatch, ci, outcome):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("CI", ci)

    with pytest.raises(outcome, match=r"no browser: none of chromium, .* is installed"):
        find_chromium()
