"""`clipline view` as users see it: clips of every format play at their time."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.browse.example_results import CLIP_SECONDS, write_results, write_sources
from tests.system.browser import open_browser
from tests.videos import read_number

pytestmark = pytest.mark.system

FORMATS = ("h264", "avi", "prores", "images", "turned")
VIDEO = "document.querySelector('#details video')"


class Address:
    """An address that the browser opens as it opens files."""

    def __init__(self, text):
        self.as_uri = lambda: text


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Start the command, and return the address that it prints."""
    folder = tmp_path_factory.mktemp("view")
    out = write_results(folder / "out", write_sources(folder / "videos"))
    command = [sys.executable, "-m", "flows.cli.app", "view", str(out), "--no-open"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        yield re.match(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)[0]
        process.terminate()
        assert process.wait(30) == 143


@pytest.fixture(scope="module")
def page(tmp_path_factory, address):
    with open_browser(tmp_path_factory.mktemp("profile")) as page:
        page.open(Address(address), 1440)
        page.wait("document.body.dataset.ready === 'true'")
        yield page


def read_shown(page, tmp_path):
    """Read the number in the frame of the video that is shown, and its time in the video."""
    values = page.evaluate(
        "(video => { const canvas = document.createElement('canvas');"
        "canvas.width = video.videoWidth; canvas.height = video.videoHeight;"
        "const time = video.currentTime;"
        "canvas.getContext('2d').drawImage(video, 0, 0);"
        "return [time, canvas.toDataURL('image/png').split(',')[1]] })"
        f"({VIDEO})"
    )
    path = tmp_path / "frame.png"
    path.write_bytes(base64.b64decode(values[1]))
    return values[0], np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])


@pytest.mark.parametrize("clip", range(2 * len(FORMATS)))
def test_every_clip_plays_at_its_time(page, tmp_path, clip):
    name, start = FORMATS[clip // 2], CLIP_SECONDS * (clip % 2)
    page.evaluate(f"explorer.showClip({clip})")
    page.wait(f"{VIDEO} && {VIDEO}.readyState >= 2 && !{VIDEO}.seeking")
    page.evaluate(f"{VIDEO}.pause()")
    page.wait(f"!{VIDEO}.seeking")

    time, image = read_shown(page, tmp_path)

    converted = page.evaluate(f"{VIDEO}.currentSrc").endswith(f"/clips/{clip}.mp4")
    assert converted == (name in ("avi", "prores", "images"))
    seconds = time + start if converted else time
    assert start <= seconds <= start + CLIP_SECONDS
    if name == "turned":
        assert image.shape[0] > image.shape[1]
        image = np.ascontiguousarray(np.rot90(image))
    assert abs(read_number(image) - 30 * seconds) <= 2


def test_the_clip_repeats(page):
    page.evaluate("explorer.showClip(1)")
    page.wait(f"{VIDEO} && {VIDEO}.readyState >= 2")
    page.evaluate(
        f"{VIDEO}.play().catch(() => {{}}); window.times = []; "
        f"{VIDEO}.addEventListener('seeked', () => times.push({VIDEO}.currentTime)); 0"
    )

    page.wait("times.some((time, number) => number > 0 && time < 1.2)")
    assert page.evaluate("times.every(time => time >= 0.95 && time <= 2)")


def test_rows_have_images(page):
    page.evaluate("explorer.open('clips')")

    page.wait(
        "[...document.querySelectorAll('.row-image')].filter(i => i.naturalWidth > 0).length === 10"
    )


def test_the_details_have_frames_scores_and_similar_clips(page):
    page.evaluate("explorer.showClip(3)")
    page.wait("document.querySelectorAll('.similar img').length > 0")
    page.wait("[...document.querySelectorAll('.strip img')].every(i => i.naturalWidth > 0)")

    scores = page.evaluate("document.querySelector('.scores').textContent")
    assert scores.startswith("still0.800")
    page.evaluate("document.querySelector('.similar button').click()")
    assert page.evaluate("explorer.state.row") in {1, 5, 7, 9}


def test_the_address_does_not_keep_the_token(page):
    assert "token" not in page.evaluate("location.href")
