from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from pipeline.records import STATUSES, DecodeReport, Video
from pipeline.results import tables
from pipeline.results.html import COLOURS
from pipeline.results.report import COLUMNS, MAX_VIDEOS
from pipeline.results.rows import RowOptions, VideoRows
from pipeline.results.tables import load, write_rows
from pipeline.storage import read_table
from tests.results.example_report import EVIL, LABELS, MIXED, failed, labelled, write_example

OPTIONS = RowOptions(LABELS, "toy", "0123456789abcdef")


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
        cards = re.findall(
            r'<b class="value">(.*?)</b> <span class="caption">(.*?)</span>', self.text
        )
        return {name: value for value, name in cards}


def page_of(out, rows, labels=LABELS):
    path = write_example(out, rows, labels)
    assert path == out / "report.html"
    return Page(path.read_text("utf-8"))


class TestContents:
    def test_cards_show_the_counts_of_the_tables(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        assert page.cards() == {
            "videos": str(len(load(tmp_path, "videos"))),
            "duration": "0:00:04",
            "clips": str(len(load(tmp_path))),
            "not fully decoded": "2",
        }

    def test_long_durations_are_shown_in_hours(self, tmp_path):
        page = page_of(tmp_path, [labelled("a.mp4", [0, 1], seconds=3661.0)])

        assert page.cards()["duration"] == "2:02:02"

    def test_labels_have_counts_and_mean_scores(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        rows = {label: (count, score) for label, count, _, score in page.table("label")}
        clips = load(tmp_path)
        for label, group in clips.groupby("label"):
            assert rows[label] == (str(len(group)), f"{group.score.mean():.2f}")
        assert len(rows) == clips.label.nunique() == 2

    def test_bars_are_proportional_to_the_counts(self, tmp_path):
        page = page_of(tmp_path, [labelled("a.mp4", [0] * 8 + [1] * 2)])

        assert re.findall(r'class="bar" style="width: ([0-9.]+)%', page.text) == ["100.0", "25.0"]

    def test_every_segment_is_a_box_at_its_time(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        boxes = re.findall(
            r'<rect x="([0-9.]+)" y="0" width="([0-9.]+)" height="16" fill', page.text
        )
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

    def test_shots_are_separated_by_lines(self, tmp_path):
        row = labelled("a.mp4", [0, 0, 1, 1])
        row.recognition.segments[2:] = [
            replace(segment, shot=1) for segment in row.recognition.segments[2:]
        ]

        page = page_of(tmp_path, [row])

        assert re.findall(r'<rect class="cut" x="([0-9.]+)" y="0" width="2" ', page.text) == [
            "499.0"
        ]

    def test_labels_keep_their_colours(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        fills = re.findall(r'fill="(#[0-9a-f]+)"', page.text)
        assert fills == [COLOURS[0], COLOURS[0], COLOURS[1], COLOURS[1]]

    def test_failures_have_a_status_and_an_error(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        failures = page.tables[2][1:]
        assert failures == [
            ["text.mp4", "not_video", "no video container", "0"],
            ["cut.mp4", "partial", "the header claims 60 frames", "1,234"],
        ]
        assert STATUSES["not_video"] in page.text
        assert STATUSES["partial"] in page.text
        assert STATUSES["missing"] not in page.text

    def test_the_configuration_is_shown(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        facts = dict(page.tables[-1])
        assert facts["configuration id"] == "0123456789abcdef"
        assert facts["backbone weights"] == "feed"
        assert facts["engine"] == "torch on cpu, float32"
        assert "toy · finished 2026-01-02T03:04:05+00:00" in page.text

    def test_the_number_of_videos_left_out_is_shown(self, tmp_path):
        rows = [labelled(f"{number}.mp4", [0]) for number in range(MAX_VIDEOS + 3)]
        rows += [failed(f"bad{number}.mp4") for number in range(MAX_VIDEOS + 1)]

        page = page_of(tmp_path, rows)

        assert len(page.table("video")) == MAX_VIDEOS
        assert re.findall(">([0-9]+) more are in the tables", page.text) == ["3", "1"]

    def test_videos_with_the_same_name_have_a_row_each(self, tmp_path):
        rows = [labelled("same.mp4", [0], video_id="1"), labelled("same.mp4", [1], video_id="2")]

        page = page_of(tmp_path, rows)

        assert [row[0] for row in page.table("video")] == ["same.mp4", "same.mp4"]
        assert len(page.titles[1:]) == 2


class TestMemory:
    def test_only_the_columns_shown_are_read(self, tmp_path, monkeypatch):
        """Scores and embeddings are most of the data."""
        read = set()

        def record(path, schema=None):
            read.update((path.parent.name, name) for name in schema.names)
            return read_table(path, schema)

        monkeypatch.setattr(tables, "read_table", record)
        page_of(tmp_path, MIXED)

        assert read == {(table, name) for table, names in COLUMNS.items() for name in names}
        assert not {"scores", "embedding", "novelty"} & set(COLUMNS["clips"])

    def test_one_shard_at_a_time_is_in_memory(self, tmp_path, monkeypatch):
        allocated = []

        def record(path, schema=None):
            table = read_table(path, schema)
            allocated.append(pa.total_allocated_bytes())
            return table

        for number in range(12):
            write_rows(tmp_path, [labelled(f"{number}.mp4", [0, 1] * 300)], OPTIONS)
        monkeypatch.setattr(tables, "read_table", record)
        page_of(tmp_path, [])

        assert len(allocated) == 3 * 12
        before, growth = allocated[0], allocated[5] - allocated[0]
        assert max(allocated) < before + 3 * growth


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

    def test_the_page_has_no_scripts_and_no_links(self, tmp_path):
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


class TestEmptyResults:
    def test_features_only(self, tmp_path):
        video = Video("a.mp4", "/v/a.mp4", "file", "1", 9)
        row = VideoRows(video, DecodeReport("ok", duration_seconds=60), None)

        page = page_of(tmp_path, [row], labels=())

        assert "features only" in page.text
        assert page.cards()["duration"] == "0:01:00"
        assert "<h2>Labels" not in page.text

    def test_no_videos(self, tmp_path):
        page = page_of(tmp_path, [])

        assert page.cards()["videos"] == "0"
        assert "Not fully decoded" not in page.text

    @pytest.mark.parametrize("rows", [[failed("a.mp4")], [labelled("a.mp4", [0])]])
    def test_only_bad_or_only_good_videos(self, tmp_path, rows):
        page = page_of(tmp_path, rows)

        assert ("<h2>Labels" in page.text) == (rows[0].recognition is not None)
        assert ("<h2>Not fully decoded" in page.text) == (rows[0].recognition is None)
