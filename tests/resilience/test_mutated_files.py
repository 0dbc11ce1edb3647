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
"""Of one attempt at one file."""
WORKERS = 2
DEFAULT_FILES = 3 * len(SOURCES) * len(MUTATIONS)
SLOW_FILES = 1200


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, sound, tiny_recognizer):
    """Results of damaged files, those files, and the sound ones that they were made of."""
    folder = tmp_path_factory.mktemp("mutated")
    videos = folder / "videos"
    videos.mkdir()
    names = [path.name for path in write_mutated(sound, videos, DEFAULT_FILES)]
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
    """Give the rows of the videos with the name of what was done to each."""
    rows = load(out, "videos")
    file = rows.video.map(os.path.basename)
    return rows.assign(file=file, mutation=file.str.extract(r"_(\w+)\.")[0])


def check_rows(out, names):
    """Hold a run over damaged files to what every run promises."""
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
    def test_every_file_has_one_row_with_a_documented_status(self, labelled):
        out, names, summary = labelled

        rows = check_rows(out, names)

        assert summary["failures"] == []
        assert set(rows.mutation) == {mutate.__name__ for mutate in MUTATIONS}

    def test_damage_is_neither_all_nor_nothing(self, labelled):
        """Else the files would not test what they are to test."""
        rows = by_mutation(labelled[0])

        assert {"ok", "partial", "not_video"} <= set(rows.status)
        assert (rows.frames_damaged[rows.status == "partial"] > 0).any()

    @pytest.mark.parametrize("container", ["mkv", "webm", "avi", "mp4"])
    def test_what_was_cut_off_is_never_called_whole(self, labelled, container):
        rows = by_mutation(labelled[0])

        cut = rows[(rows.mutation == "truncate") & rows.file.str.endswith(container)]

        assert len(cut)
        assert "ok" not in set(cut.status)

    def test_rows_of_frames_ascend_and_no_frame_is_made_up(self, labelled):
        out = labelled[0]
        frames = tables(out)["frames"].groupby("video")

        assert frames.sample_index.is_monotonic_increasing.all()
        assert frames.pts_seconds.is_monotonic_increasing.all()
        decoded = load(out, "videos").set_index("video").frames_decoded
        assert (frames.frame_index.nunique() <= decoded[frames.frame_index.nunique().index]).all()


@pytest.mark.slow
def test_a_thousand_damaged_files(clipline, sound, tiny_recognizer, tmp_path, capsys):
    """1,200 files through the command line, within files × deadline / workers, with 1 GiB each."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    names = [path.name for path in write_mutated(sound, videos, SLOW_FILES)]

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
        told = f"{len(rows)} damaged files in {ended.seconds:.0f} s (at most {bound:.0f})"
        sys.stdout.write(f"\n{told}: {found}\n")
