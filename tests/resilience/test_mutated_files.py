"""
Damaged files by the hundred: each a row, none a hang, a crash or a process left behind.

The slow part damages 1,200 files, runs the command line on them, and prints how long that took:

    python -m pytest -m slow -s tests/resilience/test_mutated_files.py
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions
from pipeline.records import STATUSES
from pipeline.results.tables import load
from pipeline.run.process import process_videos
from tests.resilience.commands import tables
from tests.resilience.mutations import MUTATIONS, SOURCES, write_mutated

DEADLINE_SECONDS = 10.0
"""Time limit for one file."""
WORKERS = 2
DEFAULT_FILES = 3 * len(SOURCES) * len(MUTATIONS)
SLOW_FILES = 1200


@pytest.fixture(scope="module")
def results(tmp_path_factory, undamaged, tiny_recognizer):
    """Results of damaged files, and the names of these files."""
    folder = tmp_path_factory.mktemp("mutated")
    videos = folder / "videos"
    videos.mkdir()
    names = [path.name for path in write_mutated(undamaged, videos, DEFAULT_FILES)]
    decode = DecodeOptions(workers=WORKERS, frame_timeout_seconds=20, video_timeout_seconds=60)
    options = RunOptions(
        recognizer=str(tiny_recognizer),
        frames=True,
        decode=decode,
        encode=EncodeOptions(precision="float32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        summary = process_videos([str(videos)], folder / "out", options)
    return folder / "out", names, summary


def by_mutation(out):
    """Return the rows of the videos, with the name of the mutation of each."""
    rows = load(out, "videos")
    file = rows.video.map(os.path.basename)
    return rows.assign(file=file, mutation=file.str.extract(r"_(\w+)\.")[0])


def check_rows(out, names):
    """Check the rows of a run over damaged files."""
    rows = by_mutation(out)
    assert sorted(rows.file) == sorted(names)
    assert set(rows.status) <= set(STATUSES)
    assert not (rows.status == "decode_crash").any()
    assert not (rows.status == "decode_timeout").any()
    bad = rows[rows.status != "ok"]
    assert (bad.error != "").all()
    assert (rows[rows.status == "ok"].frames_missing == 0).all()
    assert (rows.frames_decoded[rows.status == "partial"] > 0).all()
    return rows


class TestDamagedFiles:
    def test_every_file_has_one_row_with_a_documented_status(self, results):
        out, names, summary = results

        rows = check_rows(out, names)

        assert summary["failures"] == []
        assert set(rows.mutation) == {mutate.__name__ for mutate in MUTATIONS}

    def test_some_files_are_damaged_and_some_are_not(self, results):
        """Otherwise the files would not test what they should."""
        rows = by_mutation(results[0])

        assert {"ok", "partial", "not_video"} <= set(rows.status)
        assert (rows.frames_damaged[rows.status == "partial"] > 0).any()

    @pytest.mark.parametrize("container", ["mkv", "webm", "avi", "mp4"])
    def test_truncated_files_are_never_ok(self, results, container):
        rows = by_mutation(results[0])

        cut = rows[(rows.mutation == "truncate") & rows.file.str.endswith(container)]

        assert len(cut)
        assert "ok" not in set(cut.status)

    def test_rows_of_frames_are_sorted_and_real(self, results):
        out = results[0]
        frames = tables(out)["frames"].groupby("video")

        assert frames.sample_index.is_monotonic_increasing.all()
        assert frames.pts_seconds.is_monotonic_increasing.all()
        decoded = load(out, "videos").set_index("video").frames_decoded
        assert (frames.frame_index.nunique() <= decoded[frames.frame_index.nunique().index]).all()


@pytest.mark.slow
def test_a_thousand_damaged_files(clipline, undamaged, tiny_recognizer, tmp_path, capsys):
    """1,200 files through the command line, within files × deadline / workers, with 1 GiB each."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    names = [path.name for path in write_mutated(undamaged, videos, SLOW_FILES)]

    ended = clipline(
        *("run", videos, "-o", out, "--recognizer", tiny_recognizer, "--frames", "-q"),
        *("--workers", WORKERS, "--video-timeout", DEADLINE_SECONDS, "--frame-timeout", 4),
        *("--decode-memory", 1024),
        timeout=SLOW_FILES * DEADLINE_SECONDS / WORKERS,
    )

    assert ended.code == 3, ended.err
    rows = check_rows(out, names)
    assert clipline.left() == {}
    with capsys.disabled():
        found = ", ".join(f"{count} {status}" for status, count in Counter(rows.status).items())
        bound = SLOW_FILES * DEADLINE_SECONDS / WORKERS
        message = f"{len(rows)} damaged files in {ended.seconds:.0f} s (at most {bound:.0f})"
        sys.stdout.write(f"\n{message}: {found}\n")
