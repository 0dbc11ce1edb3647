from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.recognition.recognize import Clip, LabelledRun, Recognition
from pipeline.records import STATUSES, DecodeReport, Video
from pipeline.results.report import COLOURS, VIDEOS_SHOWN, write_report
from pipeline.results.rows import RowOptions, VideoRows
from pipeline.results.tables import load, write_rows, write_run

EVIL = '<script>alert(\'"&x")</script>'
LABELS = ("pan left", "still", f"zoom {EVIL}")


class Page(HTMLParser):
    """The page as a browser sees it: tags, attributes, and the texts of cells."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.tags, self.attributes, self.titles, self.tables = [], [], [], []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "title":
            self.titles.append("")

    def handle_data(self, data):
        if self._inside == "title":
            self.titles[-1] += data
        elif self._inside in ("td", "th", "code") and self.tables:
            self.tables[-1][-1][-1] += data

    def handle_endtag(self, tag):
        self._inside = ""

    def table(self, first):
        """Give the rows of the table whose head begins so."""
        return next(rows[1:] for rows in self.tables if rows[0][0] == first)

    def cards(self):
        cards = re.findall(r"<div class=card><b>(.*?)</b><span>(.*?)</span>", self.text)
        return {name: value for value, name in cards}


def labelled(name, labels, seconds=1.0, video_id=None):
    """A video with one clip and one segment a label."""
    video_id = video_id or f"id-{name}"
    found = Recognition(video_id)
    for number, label in enumerate(labels):
        probabilities = np.full(3, 0.1, np.float32)
        probabilities[label] = 0.8
        start, end = number * seconds, (number + 1) * seconds
        found.clips.append(Clip(0, start, end, 8, probabilities, np.zeros(2, np.float32)))
        found.segments.append(LabelledRun(0, start, end, label, 0.8))
    duration = seconds * len(labels)
    report = DecodeReport("ok", duration_seconds=duration, frames_decoded=30)
    return VideoRows(Video(name, f"/v/{name}", "file", video_id, 9), report, found)


def failed(name, status="not_video", error="no video container", frames=0):
    report = DecodeReport(status, error, frames_decoded=frames)
    return VideoRows(Video(name, f"/v/{name}", "file", f"id-{name}", 9), report, None)


def page_of(out, rows, labels=LABELS):
    options = RowOptions(labels, "toy" if labels else "", "0123456789abcdef")
    if rows:
        write_rows(out, rows, options)
    configuration = {
        "recognizer": "toy" if labels else None,
        "labels": list(labels),
        "sampling": {"fps": 8, "every": None},
        "clips": {"seconds": 1.0, "stride_seconds": None},
        "backbone": f"net {EVIL}",
        "backbone_weights": "feed",
        "engine": "torch",
        "device": "cpu",
        "precision": "float32",
    }
    write_run(
        out,
        {
            "config_id": options.config_id,
            "configuration": configuration,
            "finished_at": "2026-01-02T03:04:05+00:00",
        },
    )
    path = write_report(out)
    assert path == out / "report.html"
    return Page(path.read_text("utf-8"))


MIXED = [
    labelled("a.mp4", [0, 0, 1]),
    labelled("b.mp4", [1]),
    failed("text.mp4"),
    failed("cut.mp4", "partial", "the header claims 60 frames", 1234),
]


class TestNumbers:
    def test_cards_count_the_tables(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        assert page.cards() == {
            "videos": str(len(load(tmp_path, "videos"))),
            "of footage": "0:00:04",
            "clips": str(len(load(tmp_path))),
            "not fully decoded": "2",
        }

    def test_long_footage_is_told_in_hours(self, tmp_path):
        page = page_of(tmp_path, [labelled("a.mp4", [0, 1], seconds=3661.0)])

        assert page.cards()["of footage"] == "2:02:02"

    def test_labels_are_counted_and_their_scores_averaged(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        rows = {label: (count, score) for label, count, _, score in page.table("label")}
        clips = load(tmp_path)
        for label, group in clips.groupby("label"):
            assert rows[label] == (str(len(group)), f"{group.score.mean():.2f}")
        assert len(rows) == clips.label.nunique() == 2

    def test_bars_are_as_long_as_the_counts(self, tmp_path):
        page = page_of(tmp_path, [labelled("a.mp4", [0] * 8 + [1] * 2)])

        assert re.findall(r"class=bar style='width:([0-9.]+)%", page.text) == ["100.0", "25.0"]

    def test_every_segment_is_a_box_at_its_time(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        boxes = re.findall(r"<rect x='([0-9.]+)' y=0 width='([0-9.]+)' height=16 fill", page.text)
        assert boxes == [
            ("0.0", "333.3"),
            ("333.3", "333.3"),
            ("666.7", "333.3"),
            ("0.0", "1000.0"),
        ]
        assert page.titles[1:] == [
            "0.00–1.00 s pan left (0.80)",
            "1.00–2.00 s pan left (0.80)",
            "2.00–3.00 s still (0.80)",
            "0.00–1.00 s still (0.80)",
        ]
        assert [row[0] for row in page.table("video")] == ["a.mp4", "b.mp4"]
        assert [row[2] for row in page.table("video")] == ["3.0 s", "1.0 s"]

    def test_shots_are_parted_by_lines(self, tmp_path):
        row = labelled("a.mp4", [0, 0, 1, 1])
        row.recognition.segments[2:] = [
            replace(segment, shot=1) for segment in row.recognition.segments[2:]
        ]

        page = page_of(tmp_path, [row])

        assert re.findall(r"<rect x='([0-9.]+)' y=0 width=2 ", page.text) == ["499.0"]

    def test_labels_keep_their_colours(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        fills = re.findall(r"fill='(#[0-9a-f]+)'", page.text)
        assert fills == [COLOURS[0], COLOURS[0], COLOURS[1], COLOURS[1]]

    def test_failures_say_what_and_why(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        failures = page.tables[2][1:]
        assert failures == [
            ["text.mp4", "not_video", "no video container", "0"],
            ["cut.mp4", "partial", "the header claims 60 frames", "1,234"],
        ]
        assert STATUSES["not_video"] in page.text
        assert STATUSES["partial"] in page.text
        assert STATUSES["missing"] not in page.text

    def test_how_it_was_made_is_told(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        facts = dict(page.tables[-1])
        assert facts["configuration"] == "0123456789abcdef"
        assert facts["backbone weights"] == "feed"
        assert facts["engine"] == "torch on cpu, float32"
        assert "toy · finished 2026-01-02T03:04:05+00:00" in page.text

    def test_more_videos_than_are_shown_are_told(self, tmp_path):
        rows = [labelled(f"{number}.mp4", [0]) for number in range(VIDEOS_SHOWN + 3)]
        rows += [failed(f"bad{number}.mp4") for number in range(VIDEOS_SHOWN + 1)]

        page = page_of(tmp_path, rows)

        assert len(page.table("video")) == VIDEOS_SHOWN
        assert re.findall("<p>([0-9]+) more are in the tables", page.text) == ["3", "1"]

    def test_videos_that_share_a_name_have_a_line_each(self, tmp_path):
        rows = [labelled("same.mp4", [0], video_id="1"), labelled("same.mp4", [1], video_id="2")]

        page = page_of(tmp_path, rows)

        assert [row[0] for row in page.table("video")] == ["same.mp4", "same.mp4"]
        assert len(page.titles[1:]) == 2


class TestSafety:
    def test_names_and_messages_are_escaped(self, tmp_path):
        out = tmp_path / "out<b>&'"
        rows = [labelled(f"a{EVIL}.mp4", [2]), failed(f"b{EVIL}.mp4", error=f"said {EVIL}")]

        page = page_of(out, rows)

        assert "script" not in page.tags
        assert page.titles[0] == "Clipline: out<b>&'"
        assert page.titles[1] == f"0.00–1.00 s zoom {EVIL} (0.80)"
        assert page.table("label")[0][0] == f"zoom {EVIL}"
        assert page.table("video")[0][0] == f"a{EVIL}.mp4"
        assert page.tables[2][1][:3] == [f"b{EVIL}.mp4", "not_video", f"said {EVIL}"]
        assert dict(page.tables[-1])["backbone"] == f"net {EVIL}"

    def test_nothing_runs_and_nothing_is_fetched(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        assert {name for name, _ in page.attributes} <= {
            "lang",
            "charset",
            "name",
            "content",
            "class",
            "style",
            "viewbox",
            "preserveaspectratio",
            "width",
            "height",
            "x",
            "y",
            "fill",
        }
        assert not re.search(r"https?:|//|url\(|@import|javascript", page.text)
        assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)


class TestLittleToShow:
    def test_features_only(self, tmp_path):
        video = Video("a.mp4", "/v/a.mp4", "file", "1", 9)
        row = VideoRows(video, DecodeReport("ok", duration_seconds=60), None)

        page = page_of(tmp_path, [row], labels=())

        assert "features only" in page.text
        assert page.cards()["of footage"] == "0:01:00"
        assert "<h2>Labels" not in page.text

    def test_nothing_at_all(self, tmp_path):
        page = page_of(tmp_path, [])

        assert page.cards()["videos"] == "0"
        assert "Not fully decoded" not in page.text

    @pytest.mark.parametrize("rows", [[failed("a.mp4")], [labelled("a.mp4", [0])]])
    def test_only_bad_or_only_good_videos(self, tmp_path, rows):
        page = page_of(tmp_path, rows)

        assert ("<h2>Labels" in page.text) == (rows[0].recognition is not None)
        assert ("<h2>Not fully decoded" in page.text) == (rows[0].recognition is None)
