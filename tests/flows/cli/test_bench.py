"""`clipline bench` as a user runs it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flows.cli.bench import _conclusions
from flows.signals import USAGE
from pipeline.bench.material import draw_video
from tests.bench.test_rates import FOUND

BENCH = ("bench", "--backbone", "random:test_resnet", "--workers", "1", "--repeats", "1")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A second of drawn video."""
    return draw_video(tmp_path_factory.mktemp("drawn") / "a.mp4", (96, 64), 1.0)


@pytest.mark.slow
def test_it_measures_a_video_for_machines(clipline, video, tmp_path):
    ended = clipline(*BENCH, video, "--json", "--hours", "2", "--plot", tmp_path / "bars.png")

    assert ended.code == 0, ended.err
    (said,) = ended.json
    assert (said["frames"], said["decoded"], said["cores"]) == (30, 30, 1)
    readers = {rate["reader"] for rate in said["decode"]}
    assert {"decord", "opencv", "pyav"} <= readers
    assert said["efficiency"] == pytest.approx(said["run"] / said["floor"])
    assert said["floor"] < min(said["decode_rate"], said["engine"])
    assert said["hours_for"] == 2
    assert said["hours"] == pytest.approx(
        (30 * 7200 / said["run"] + said["startup_seconds"]) / 3600
    )
    assert said["times_naive"] == pytest.approx(said["run"] / said["naive"])
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_what_follows_is_said_in_words():
    said = dict(_conclusions(FOUND, 36))

    assert said["whole run"].startswith("72 frames/s in ")
    assert said["efficiency"] == "90% of the floor"
    assert said["share of the engine alone"] == "72%"
    assert said["share of the fastest reader alone"] == "18%"


def test_a_rate_below_ten_keeps_its_digits():
    """Of few samples of long videos."""
    said = dict(_conclusions(replace(FOUND, run=1.84, naive=0.0213), 36))

    assert said["whole run"].startswith("1.8 frames/s")
    assert said["naive loop"].startswith("0.021 frames/s")


def test_an_unknown_case_fails(clipline):
    ended = clipline("bench", "--case", "speed")

    assert ended.code == USAGE
    assert '"speed" for --case. Choose from: "roofline", "startup", "scale", "long"' in ended.err
