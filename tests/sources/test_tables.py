"""Tables as people save them: separators, encodings, quotes, other formats, and all mistakes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.errors import SourceError
from pipeline.sources.table_problems import Problems, format_lines
from pipeline.sources.table_values import file_name, parse_seconds, split_labels
from pipeline.sources.tables import read_table, read_text

KNOWN = ("video", "label")
PLAIN = "video,label\na.mp4,hug\nb.mp4,kick\n"


@pytest.fixture
def read(tmp_path):
    """Write a file, and read it as a table."""

    def write_and_read(content: str | bytes, name: str = "labels.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_table(path, KNOWN)

    return write_and_read


def values(table) -> list[tuple[int, str, str]]:
    return [(row.line, row["video"], row["label"]) for row in table.rows]


EXPECTED = [(2, "a.mp4", "hug"), (3, "b.mp4", "kick")]


class TestForms:
    @pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    def test_separators_and_line_ends(self, read, separator, line_end):
        table = read(PLAIN.replace(",", separator).replace("\n", line_end))

        assert table.columns == KNOWN
        assert values(table) == EXPECTED

    @pytest.mark.parametrize(
        "encoding",
        ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"],
    )
    def test_encodings(self, read, encoding):
        table = read("video;label\ncafé.mp4;trémolo\n".encode(encoding))

        assert values(table) == [(2, "café.mp4", "trémolo")]
        assert bool(table.note) == (encoding in ("cp1252", "latin-1"))

    def test_bytes_that_windows_1252_lacks_are_read_too(self, read):
        assert values(read(b"video,label\n\x81.mp4,hug\n")) == [(2, "\x81.mp4", "hug")]

    @pytest.mark.parametrize(
        "text",
        [
            "Video , LABEL\na.mp4, hug \n b.mp4\u00a0,kick\n",
            "video,label,,\na.mp4,hug,,\nb.mp4,kick,,\n",
            "video,label\na.mp4,hug,,,\nb.mp4,kick\n",
            '"video","label"\n"a.mp4","hug"\n"b.mp4" , "kick"\n',
            ",video,label\n,a.mp4,hug\n,b.mp4,kick\n",
            "video,label\na.mp4,hug\nb.mp4,kick\n,\n ,\n\n",
            "label,video\nhug,a.mp4\nkick,b.mp4\n",
        ],
    )
    def test_blanks_quotes_and_empty_columns(self, read, text):
        table = read(text)

        assert values(table) == EXPECTED
        table.problems.raise_if_any()

    def test_lines_are_counted_as_in_an_editor(self, read):
        table = read('\n\nvideo,label\n\na.mp4,"two\nlines"\n\nb.mp4,kick\n')

        assert values(table) == [(5, "a.mp4", "two\nlines"), (8, "b.mp4", "kick")]

    def test_excel_may_declare_the_separator(self, read):
        assert values(read("sep=;\nvideo;label\na,b.mp4;hug\n")) == [(3, "a,b.mp4", "hug")]

    def test_known_columns_decide_about_the_separator(self, read):
        text = "video;label;note, if any, of the annotator\na.mp4;hug;\n"

        assert read(text).columns == ("video", "label", "note,_if_any,_of_the_annotator")

    def test_names_of_columns_are_normalized(self, read):
        assert read("Video,Start Seconds,end-seconds\n").columns == (
            *("video", "start_seconds", "end_seconds"),
        )

    def test_missing_values_are_empty(self, read):
        assert values(read("video,label\na.mp4\n")) == [(2, "a.mp4", "")]

    def test_every_cell_is_text(self, read):
        assert values(read("video,label\n0007,NA\n")) == [(2, "0007", "NA")]

    def test_parquet(self, tmp_path):
        path = tmp_path / "labels.parquet"
        pd.DataFrame({"Video": ["a.mp4", None], "label": [7, 8], "x": [1.5, None]}).to_parquet(path)

        table = read_table(path, KNOWN)

        assert values(table) == [(2, "a.mp4", "7"), (3, "", "8")]
        assert [row["x"] for row in table.rows] == ["1.5", ""]

    def test_many_rows(self, read):
        table = read("video,label\n" + "a.mp4,hug\n" * 20_000)

        assert len(table.rows) == 20_000
        assert table.rows[-1].line == 20_001


OTHER_FORMATS = {
    b"PK\x03\x04\x14\x00": "is a spreadsheet: save it as CSV",
    b"\xd0\xcf\x11\xe0\xa1\xb1": "is a spreadsheet: save it as CSV",
    b"version https://git-lfs.github.com/spec/v1\noid": "is a Git LFS pointer",
    b"\n<!DOCTYPE html><html>": "is a web page",
    b"{\\rtf1\\ansi": "is a text document",
    b"": "is empty",
    b"\n \n,,\n": "is empty",
    b"\x00\x01\x02\x00\x00\x00": "is no text",
    b"PAR1 and no more": "cannot be read",
}


@pytest.mark.parametrize("content", OTHER_FORMATS, ids=OTHER_FORMATS.get)
def test_other_formats_are_named_in_one_sentence(read, content):
    with pytest.raises(SourceError, match=rf"labels\.csv .*{OTHER_FORMATS[content]}") as caught:
        read(content)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["book.xlsx", "book.xls", "book.ODS"])
def test_spreadsheets_are_known_by_their_names(read, name):
    with pytest.raises(SourceError, match="save it as CSV"):
        read("not really", name)


def test_a_missing_file_fails(tmp_path):
    with pytest.raises(SourceError, match=r"none\.txt cannot be read: No such file"):
        read_text(tmp_path / "none.txt")


class TestProblems:
    def test_values_outside_of_the_columns(self, read):
        table = read("video,label,,\na,hug,x,\nb,kick,,,y\nc,nod,,,\nd,nod,,,z\n")

        with pytest.raises(SourceError) as caught:
            table.problems.raise_if_any()

        assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
            *("  row 2", "  rows 3, 5")
        ]

    def test_columns_that_occur_twice(self, read):
        with pytest.raises(SourceError, match=r"row 1 of .*several columns label"):
            read("video,label,Label\na,hug,kick\n").problems.raise_if_any()

    def test_one_mistake_is_one_line(self):
        problems = Problems(Path("t.csv"))
        problems.raise_if_any()
        problems.add("bad", [3, 2])

        with pytest.raises(SourceError, match=r"^rows 2, 3 of t\.csv: bad$"):
            problems.raise_if_any()

    def test_very_many_mistakes_are_counted(self):
        problems = Problems(Path("t.csv"))
        for line in range(300):
            problems.add("bad", [line])

        with pytest.raises(
            SourceError, match=r"t\.csv has 300 mistakes:\n(.*\n){200}  and 100 more$"
        ):
            problems.raise_if_any()

    def test_lines_are_listed_as_ranges(self):
        assert format_lines([2]) == "row 2"
        assert format_lines([9, 2, 3, 4, 2, 8]) == "rows 2 to 4, 8, 9"
        assert format_lines(range(0, 240, 2)).endswith("196, 198 and 20 more")


class TestValues:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            *(("90", 90), (" 1.5 ", 1.5), ("1,5", 1.5), (",5", 0.5), ("1e1", 10), ("-1", -1)),
            *(("1:30", 90), ("01:30.25", 90.25), ("0:01:30,5", 90.5), ("75:00", 4500)),
        ],
    )
    def test_times(self, text, seconds):
        assert parse_seconds(text) == seconds

    @pytest.mark.parametrize("text", ["one", "1.5 s", "1:75", "1:2:3:4", "1.000,5", "1_000", ""])
    def test_other_times_fail(self, text):
        with pytest.raises(ValueError, match="is no time in seconds"):
            parse_seconds(text)

    @pytest.mark.parametrize(
        ("cell", "labels"),
        [
            ("shake  hands ", ("shake hands",)),
            ("a|b", ("a", "b")),
            (" b | a||b ", ("b", "a")),
            ("e\u0301", ("\u00e9",)),
            (" | ", ()),
        ],
    )
    def test_labels(self, cell, labels):
        assert split_labels(cell) == labels

    def test_an_existing_file_decides_how_its_name_is_spelled(self, tmp_path):
        for name in ("a.mp4", " a.mp4", "x\\y.mp4"):
            (tmp_path / name).write_bytes(b"")

        assert file_name(" a.mp4", tmp_path) == " a.mp4"
        assert file_name("a.mp4 ", tmp_path) == "a.mp4"
        assert file_name("x\\y.mp4", tmp_path) == "x\\y.mp4"
        assert file_name(" none.mp4 ", tmp_path) == "none.mp4"
