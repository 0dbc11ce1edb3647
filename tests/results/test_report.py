from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from pipeline.records import STATUSES, DecodeReport, Video
from pipeline.results import report, tables
from pipeline.results.report import COLUMNS, NO_LABEL, SCORE_STEPS, TICKS_PER_SECOND
from pipeline.results.rows import RowOptions, VideoRows
from pipeline.results.tables import load, write_rows
from pipeline.storage import read_table
from tests.results.example_report import EVIL, LABELS, MIXED, failed, labelled, write_example
from tests.results.read_page import read_page

OPTIONS = RowOptions(LABELS, "toy", "0123456789abcdef")


class Page(HTMLParser):
    """The page as a browser sees it: tags, attributes, texts of cells, and the embedded data."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text("utf-8")
        self.tags, self.attributes, self.titles, self.tables = [], [], [], []
        self._inside = ""
        self.feed(self.text)
        self.close()
        self.data = read_page(path)
        self.videos, self.clips, self.segments = (
            self.data["tables"][table] for table in ("videos", "clips", "segments")
        )

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag != "bdi":
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
    return Page(path)


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

        rows = {label: (count, score) for label, count, score in page.table("label")}
        clips = load(tmp_path)
        for label, group in clips.groupby("label"):
            assert rows[label] == (str(len(group)), f"{group.score.mean():.2f}")
        assert len(rows) == clips.label.nunique() == 2

    @pytest.mark.parametrize(("table", "number"), [("clips", 4), ("segments", 4)])
    def test_every_row_of_the_tables_is_in_the_page(self, tmp_path, table, number):
        page = page_of(tmp_path, MIXED)

        rows, columns = load(tmp_path, table), page.data["tables"][table]
        assert len(rows) == number
        names = [page.videos["name"][video] for video in columns["video"]]
        labels = [page.data["labels"][label] for label in columns["label"]]
        start = columns["start"] / TICKS_PER_SECOND
        end = start + columns["length"] / TICKS_PER_SECOND
        assert names == rows.video.tolist()
        assert labels == rows.label.tolist()
        np.testing.assert_allclose(start, rows.start_seconds, atol=1e-4)
        np.testing.assert_allclose(end, rows.end_seconds, atol=1e-4)
        np.testing.assert_allclose(columns["score"] / SCORE_STEPS, rows.score, atol=1e-4)

    def test_shots_are_in_the_page(self, tmp_path):
        row = labelled("a.mp4", [0, 0, 1, 1])
        row.recognition.segments[2:] = [
            replace(segment, shot=1) for segment in row.recognition.segments[2:]
        ]

        page = page_of(tmp_path, [row])

        assert page.segments["shot"].tolist() == [0, 0, 1, 1]

    def test_novelty_is_in_the_page_if_a_clip_has_it(self, tmp_path):
        rows = [labelled("a.mp4", [0, 1])]
        clips = rows[0].recognition.clips
        clips[0] = replace(clips[0], novelty=2.5)

        page = page_of(tmp_path / "with", rows)

        np.testing.assert_array_equal(page.clips["novelty"], [2.5, np.nan])
        assert "novelty" not in page_of(tmp_path / "without", MIXED).clips

    def test_clips_without_a_label_are_in_the_page(self, tmp_path):
        write_example(tmp_path, [labelled("a.mp4", [0, 1])])
        (part,) = (tmp_path / "clips").glob("*.parquet")
        table = read_table(part)
        number = table.schema.get_field_index("label")
        labels = pa.array([None, LABELS[1]], pa.string())
        tables.write_table(table.set_column(number, "label", labels), part)

        page = Page(report.write_report(tmp_path))

        assert page.clips["label"].tolist() == [NO_LABEL, 1]
        assert [row[:2] for row in page.table("label")] == [["still", "1"]]

    def test_failures_have_a_status_and_an_error(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        columns = (page.videos[name] for name in ("name", "status", "error", "frames"))
        assert list(zip(*columns, strict=True))[2:] == [
            ("text.mp4", "not_video", "no video container", 0),
            ("cut.mp4", "partial", "the header claims 60 frames", 1234),
        ]
        statuses = next(table for table in page.tables if table[0][0] == "not_video")
        assert statuses == [
            [name, str(count), STATUSES[name]]
            for name, count in {"not_video": 1, "ok": 2, "partial": 1}.items()
        ]

    def test_the_configuration_is_shown(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        facts = dict(next(table for table in page.tables if table[0][0] == "configuration id"))
        assert facts["configuration id"] == "0123456789abcdef"
        assert facts["backbone weights"] == "feed"
        assert facts["engine"] == "torch on cpu, float32"
        assert "toy · finished 2026-01-02T03:04:05+00:00" in page.text

    def test_the_number_of_rows_left_out_is_shown(self, tmp_path, monkeypatch):
        monkeypatch.setattr(report, "MAX_ROWS", 3)
        rows = [labelled(f"{number}.mp4", [0, 1]) for number in range(2)]
        rows += [failed(f"bad{number}.mp4") for number in range(3)]

        page = page_of(tmp_path, rows)

        assert re.findall(">([0-9]+ [a-z]+) are in the tables only", page.text) == [
            *("2 videos", "1 clips", "1 segments")
        ]
        assert len(page.videos["name"]) == len(page.clips["video"]) == 3
        assert page.cards()["clips"] == "4"

    def test_videos_with_the_same_name_have_a_row_each(self, tmp_path):
        rows = [labelled("same.mp4", [0], video_id="1"), labelled("same.mp4", [1], video_id="2")]

        page = page_of(tmp_path, rows)

        assert page.videos["name"] == ["same.mp4", "same.mp4"]
        assert page.clips["video"].tolist() == page.segments["video"].tolist() == [0, 1]


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
        assert not {"scores", "embedding"} & set(COLUMNS["clips"])

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

        assert page.tags.count("script") == 2  # the data, and the script of the page
        assert page.titles[0] == "Clipline: out<b>&'"
        assert page.table("label")[0][0] == f"zoom {EVIL}"
        assert page.data["labels"][2] == f"zoom {EVIL}"
        assert page.videos["name"] == [f"a{EVIL}.mp4", f"b{EVIL}.mp4"]
        assert page.videos["error"][1] == f"said {EVIL}"
        assert "alert(" not in page.text.replace("\\u003cscript\\u003ealert(", "").replace(
            "&lt;script&gt;alert(", ""
        )

    def test_the_page_loads_nothing(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        assert not {"src", "href", "style", "srcset", "action"} & {n for n, _ in page.attributes}
        assert not {"link", "img", "iframe", "object", "base", "embed"} & set(page.tags)
        assert not re.search(r"https?:|url\(|@import|javascript:|import\(", page.text)

    def test_the_policy_forbids_other_scripts_and_requests(self, tmp_path):
        page = page_of(tmp_path, MIXED)

        (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page.text)
        policy = html.unescape(policy).split("; ")
        assert policy[0] == "default-src 'none'"
        assert not any("unsafe" in part or "*" in part for part in policy)
        for name in ("script-src", "style-src"):
            (part,) = (part for part in policy if part.startswith(name))
            assert re.fullmatch(rf"{name} 'sha256-[A-Za-z0-9+/=]+'", part)


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
        assert page.videos["name"] == []

    @pytest.mark.parametrize("rows", [[failed("a.mp4")], [labelled("a.mp4", [0])]])
    def test_only_bad_or_only_good_videos(self, tmp_path, rows):
        page = page_of(tmp_path, rows)

        assert ("<h2>Labels" in page.text) == (rows[0].recognition is not None)
        assert ("<h2>Statuses" in page.text) == (rows[0].recognition is None)
