"""`clipline label` as users operate it, by keys; answers survive a kill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.training.annotations import read_annotations
from tests.system.browser import open_browser
from tests.system.test_view_in_browser import Address
from tests.videos import write_video

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label") / "videos"
    folder.mkdir()
    for number in range(4):
        write_video(folder / f"{number}.mp4", 60, first=number * 100, size=(192, 128))
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@contextlib.contextmanager
def label(browser, videos, table, *options):
    """Run the command, and open its page."""
    given = ["label", str(videos), "-o", str(table), "--backbone", "random:resnet10t", *options]
    command = [sys.executable, "-m", "flows.cli.app", *given, "--no-open", "--quiet"]
    # features are computed once for all tests
    state = {name: str(videos.parent / name) for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME")}
    environment = {**os.environ, **state, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = re.match(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
            browser.open(Address(address[0]), 1440)
            browser.wait("window.labelling && labelling.clip")
            yield process
        finally:
            process.kill()


def press(page, key):
    """Press a key, and wait until the answer is written."""
    page.evaluate(
        "document.body.dispatchEvent(new KeyboardEvent('keydown', "
        f"{{key: {json.dumps(key)}, bubbles: true, cancelable: true}}))"
    )
    page.wait("!labelling.busy")


def clip(page):
    return page.evaluate("labelling.clip && labelling.clip.row")


def test_labelling_by_keys(browser, videos, tmp_path):
    table = tmp_path / "labels.csv"
    with label(browser, videos, table, "--label", "hug", "--label", "kick", "--clip-seconds", "1"):
        assert browser.evaluate("document.getElementById('progress').textContent") == (
            "0 answers · 8 clips left"
        )
        press(browser, "1")
        press(browser, "2")
        skipped = clip(browser)
        press(browser, "s")
        press(browser, "2")
        press(browser, "u")  # the last answer
        assert clip(browser) != skipped
        press(browser, "u")  # the skip
        assert clip(browser) == skipped
        press(browser, "n")
        assert browser.evaluate("document.activeElement.id") == "new-name"
        browser.evaluate("document.getElementById('new-name').value = 'shake hands'")
        browser.evaluate("document.querySelector('#new-label button').click()")
        browser.wait("!labelling.busy && labelling.state.labels.length === 3")

    rows = pd.read_csv(table)
    assert rows.label.tolist() == ["hug", "kick", "shake hands"]
    assert read_annotations(table).labels == ("hug", "kick", "shake hands")
    assert (rows.end_seconds - rows.start_seconds).tolist() == [1, 1, 1]


def test_a_part_is_dragged_on_the_timeline(browser, videos, tmp_path):
    table = tmp_path / "labels.csv"
    with label(browser, videos, table, "--label", "hug"):
        browser.evaluate(
            "(canvas => { const box = canvas.getBoundingClientRect();"
            "canvas.setPointerCapture = () => {};"
            "for (const [name, share] of [['down', 0.25], ['move', 0.5], ['up', 0.75]])"
            "canvas.dispatchEvent(new PointerEvent('pointer' + name, {bubbles: true, pointerId: 1,"
            "clientX: box.left + share * box.width, clientY: box.top + 5})) })"
            "(document.getElementById('timeline'))"
        )
        press(browser, "1")

    (row,) = pd.read_csv(table).itertuples()
    assert (row.start_seconds, row.end_seconds) == pytest.approx((0.5, 1.5), abs=0.02)


def test_a_killed_server_loses_no_answer_and_goes_on(browser, videos, tmp_path):
    table = tmp_path / "labels.csv"
    with label(browser, videos, table, "--label", "hug", "--clip-seconds", "1") as process:
        press(browser, "1")
        press(browser, "1")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(pd.read_csv(table)) == 2

    with label(browser, videos, table, "--clip-seconds", "1"):
        assert browser.evaluate("document.getElementById('progress').textContent") == (
            "2 answers · 6 clips left"
        )
        press(browser, "1")
    assert pd.read_csv(table).label.tolist() == ["hug"] * 3


def test_the_page_fits_the_window(browser, videos, tmp_path):
    with label(browser, videos, tmp_path / "labels.csv", "--label", "a" * 60):
        for width in (360, 768, 1440):
            browser.resize(width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
