"""Times of labelled parts are checked against their videos before anything is decoded."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.errors import SourceError
from pipeline.run.features import ensure_features
from pipeline.run.load import open_session
from pipeline.training.annotations import read_annotations
from pipeline.training.build_dataset import find_labelled_videos
from pipeline.training.clip_times import check_times
from tests.videos import write_video

RUN = RunOptions(
    recognizer=None,
    backbone="random:test_resnet",
    sampling=Sampling(fps=8),
    decode=DecodeOptions(workers=1),
    encode=EncodeOptions(precision="float32"),
)
HEADER = "video,label,start_seconds,end_seconds\n"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of 2 s, one whose second half is missing, and a text file."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a.mp4", "b.mp4")):
        write_video(folder / name, 48, fps=24, first=100 * number)
    whole = write_video(folder / "whole.mkv", 96, fps=24, first=300).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="module")
def session(tmp_path_factory, engine_cache):
    options = replace(RUN, features=str(tmp_path_factory.mktemp("features")))
    with open_session(None, options, engine_cache) as opened:
        yield opened


@pytest.fixture
def check(videos, session):
    """Check rows of a table."""

    def write_and_check(*rows, session=session):
        (videos / "labels.csv").write_text(HEADER + "\n".join(rows))
        annotations = read_annotations(videos / "labels.csv")
        return check_times(annotations, session, find_labelled_videos(annotations))

    return write_and_check


WRONG = (
    *("a.mp4,hug,0,1", "a.mp4,hug,1,3", "b.mp4,kick,5,6", "b.mp4,kick,2,2.1"),
    *("a.mp4,kick,0.51,0.55", "b.mp4,kick,0,2"),
)


def test_all_wrong_rows_are_reported_before_anything_is_decoded(check, session, caplog):
    with pytest.raises(SourceError) as caught:
        check(*WRONG)

    head, *lines = str(caught.value).splitlines()
    assert head.endswith("labels.csv has 4 mistakes:")
    assert [line.partition(":")[0].strip() for line in lines] == [
        "row 3",
        "row 4",
        "row 5",
        "row 6",
    ]
    assert "1 to 3 s of " in lines[0]
    assert "are not in the video, which is 2.000 s long" in lines[0]
    assert "0.51 to 0.55 s of" in lines[3]
    assert "contain no sampled frame (8 per second)" in lines[3]
    assert not list(session.store.folder.glob("*.parquet"))


def test_stored_features_give_the_same_mistakes(check, videos, tmp_path, engine_cache):
    options = replace(RUN, features=str(tmp_path))
    with open_session(None, options, engine_cache) as session:
        annotations = check("a.mp4,hug,0,1", "b.mp4,kick,0,1", session=session)
        ensure_features(session, find_labelled_videos(annotations))

        with pytest.raises(SourceError, match="has 4 mistakes"):
            check(*WRONG, session=session)


def test_parts_that_end_a_little_too_late_are_cut(check, caplog):
    with caplog.at_level(logging.WARNING):
        clips = check("a.mp4,hug,0,2.005", "a.mp4,kick,1,2.4", "b.mp4,kick,0,2.5").clips

    assert [clip.end_seconds for clip in clips] == [2.005, 2.0, 2.0]
    assert "rows 3, 4 of " in caplog.text
    assert "end up to 0.50 s after their video: the parts are cut there" in caplog.text


def test_videos_with_problems_are_not_checked(check):
    """Their clips are skipped, and named, when the dataset is built."""
    clips = check("text.mp4,hug,5,6", "cut.mkv,kick,3,4").clips

    assert len(clips) == 2


def test_whole_videos_need_no_check(check):
    assert len(check("a.mp4,hug,,", "b.mp4,kick,,").clips) == 2
