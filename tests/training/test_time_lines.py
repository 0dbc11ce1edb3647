"""Time lines of videos from rows with times, and from labels of frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.training.annotations import Annotation, Annotations
from pipeline.training.frame_labels import FrameLabels
from pipeline.training.time_lines import (
    decide_task,
    lines_of_frames,
    lines_of_rows,
    merge_copies,
)


def row(number, label, start=None, end=None, video="/a.mp4", group=None, split=None):
    return Annotation(video, label, start, end, group or video, split, number)


def table(*rows):
    return Annotations(rows, tuple(sorted({one.label for one in rows})))


TWO = table(row(2, "wave", 1.0, 2.0), row(3, "nod", 3.0, 4.5))


class TestTask:
    def test_rows_with_times_several_a_video_are_time_lines(self):
        assert decide_task(TWO) == "frames"

    @pytest.mark.parametrize(
        "rows",
        [
            (row(2, "wave", 1, 2), row(3, "nod", 1, 2, video="/b.mp4")),
            (row(2, "wave"), row(3, "nod", video="/b.mp4")),
            (row(2, "wave", 1, 2), row(3, "nod", 3, 4), row(4, "nod", video="/b.mp4")),
            (row(2, "wave", 1, 2, group="x"), row(3, "nod", 3, 4, group="y")),
            (row(2, "wave", 1, 2), row(2, "nod", 1, 2)),
        ],
        ids=["one a video", "no times", "some without times", "groups in a video", "equal times"],
    )
    def test_others_are_clips(self, rows):
        assert decide_task(table(*rows)) == "clips"


class TestRows:
    def test_frames_have_the_label_of_the_row_that_covers_them(self):
        (line,) = lines_of_rows(TWO).items
        seconds = np.arange(10) / 2

        found = line.labels_at(seconds, np.arange(10), TWO.labels)

        assert seconds[found[:, 1]].tolist() == [1.0, 1.5]
        assert seconds[found[:, 0]].tolist() == [3.0, 3.5, 4.0]

    def test_a_row_without_times_covers_the_whole_video(self):
        (line,) = lines_of_rows(table(row(2, "wave"))).items

        assert line.labels_at(np.arange(3.0), np.arange(3), ["wave"]).all()

    def test_groups_and_splits_are_those_of_the_rows(self):
        rows = [row(n, "wave", n, n + 1, group="ann", split="test") for n in (1, 2)]
        (line,) = lines_of_rows(table(*rows)).items

        assert (line.group, line.split) == ("ann", "test")
        assert line.durations() == [1.0, 1.0]

    def test_overlapping_rows_of_different_labels_are_refused_with_their_rows(self):
        rows = (row(2, "wave", 0, 2), row(3, "nod", 1.5, 3), row(4, "nod", 2.9, 4),
                row(5, "wave", 5, 6), row(6, "hug", 3.5, 3.6))  # fmt: skip
        with pytest.raises(SourceError) as raised:
            lines_of_rows(table(*rows))

        message = str(raised.value)
        assert "rows 2, 3 overlap: wave from 0 to 2 s and nod from 1.5 to 3 s of /a.mp4" in message
        assert "rows 4, 6 overlap" in message
        assert "--multi-label" in message
        assert "rows 3, 4" not in message

    def test_rounded_times_do_not_overlap(self):
        lines_of_rows(table(row(2, "wave", 0, 2.0004), row(3, "nod", 2, 3)))

    def test_with_multi_label_they_may_overlap(self):
        (line,) = lines_of_rows(
            table(row(2, "wave", 0, 2), row(3, "nod", 1, 3)), multi_label=True
        ).items

        found = line.labels_at(np.arange(4.0), np.arange(4), ["nod", "wave"])
        assert found.tolist() == [[False, True], [True, True], [True, False], [False, False]]

    def test_a_video_in_several_groups_is_refused_with_its_rows(self):
        rows = (row(2, "wave", 0, 1, group="x"), row(3, "nod", 2, 3, group="y"))

        with pytest.raises(SourceError, match=r"rows 2, 3 are of one video.* groups: x, y"):
            lines_of_rows(table(*rows))


class TestCopies:
    def test_rows_of_copies_are_joined(self):
        lines = lines_of_rows(
            table(
                row(2, "wave", 0, 1), row(3, "wave", 0, 1, "/b.mp4"), row(4, "nod", 1, 2, "/b.mp4")
            )
        )
        merged = merge_copies(lines.items)

        assert [(one.label, one.video) for one in merged.rows] == [
            ("wave", "/a.mp4"),
            ("nod", "/a.mp4"),
        ]

    def test_different_labels_at_the_same_time_are_refused(self):
        lines = lines_of_rows(table(row(2, "wave", 0, 1), row(3, "nod", 0, 1, "/b.mp4")))

        with pytest.raises(SourceError, match="rows 2, 3 overlap"):
            merge_copies(lines.items)

    @pytest.mark.parametrize("changes", [{"split": "test"}, {"frames": np.array([1])}])
    def test_other_differences_are_refused(self, changes):
        lines = lines_of_frames(FrameLabels({"a": np.array([0])}, ("wave",)), lambda name: name)
        copies = [lines.items[0], replace(lines.items[0], video="/b", **changes)]

        with pytest.raises(SourceError, match="same content"):
            merge_copies(copies)


class TestFrames:
    FOUND = FrameLabels({"a": np.array([-1, 1, 1, 0])}, ("nod", "wave"))

    def test_sampled_frames_have_their_own_label(self):
        (line,) = lines_of_frames(self.FOUND, {"a": "/videos/a.mp4"}.get).items

        found = line.labels_at(np.array([0.0, 0.5, 1.0]), np.array([0, 2, 4]), ("nod", "wave"))
        assert line.video == line.group == "/videos/a.mp4"
        assert found.tolist() == [[False, False], [False, True], [True, False]]

    def test_durations_are_those_of_equal_labels(self):
        (line,) = lines_of_frames(self.FOUND, {"a": "/videos/a.mp4"}.get).items

        assert line.durations(frame_rate=2) == [1.0, 0.5]

    def test_labels_without_a_video_are_named(self):
        with pytest.raises(
            SourceError, match="1 of 1 names in LABELS have no video or features: a"
        ):
            lines_of_frames(self.FOUND, {}.get)
