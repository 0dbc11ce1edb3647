"""Reading of annotations: valid tables and folders, and the messages for invalid ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.training.annotations import (
    Annotation,
    Annotations,
    format_rows,
    read_annotations,
    require_groups,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four empty files."""
    for name in ("a.mp4", "b.mp4", "c.mp4", "0007.mp4"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.fixture
def table(folder):
    """Write a table beside the files."""

    def write(text: str) -> Path:
        path = folder / "labels.csv"
        path.write_text(text)
        return path

    return write


def clip(row: int, **values) -> Annotation:
    return Annotation(
        **{
            "video": f"/{row}.mp4",
            "label": "wave",
            "start_seconds": None,
            "end_seconds": None,
            "group": "g",
            "split": None,
            "row": row,
            **values,
        }
    )


class TestTable:
    def test_a_video_and_its_label_are_enough(self, table, folder):
        read = read_annotations(table("video,label\na.mp4,wave\nb.mp4,nod\n"))

        assert read.labels == ("nod", "wave")
        assert read.clips[0] == Annotation(
            str(folder / "a.mp4"), "wave", None, None, str(folder / "a.mp4"), None, 2
        )
        assert [c.row for c in read.clips] == [2, 3]

    def test_times_groups_and_splits_are_read(self, table):
        text = "video,label,start_seconds,end_seconds,group,split\n"
        read = read_annotations(
            table(text + "a.mp4,wave,0.5,2,ann,train\na.mp4,nod,2,3.25,ann,train\n")
        )

        assert [(c.start_seconds, c.end_seconds) for c in read.clips] == [(0.5, 2.0), (2.0, 3.25)]
        assert {(c.group, c.split) for c in read.clips} == {("ann", "train")}

    def test_rows_with_and_without_times_may_be_mixed(self, table):
        text = "video,label,start_seconds,end_seconds\n"
        read = read_annotations(table(text + "a.mp4,wave,,\nb.mp4,nod,1,2\n"))

        assert [c.end_seconds for c in read.clips] == [None, 2.0]

    def test_the_default_group_is_the_video(self, table, folder):
        read = read_annotations(table("video,label,group\na.mp4,wave,\nb.mp4,nod,g\n"))

        assert [c.group for c in read.clips] == [str(folder / "a.mp4"), "g"]

    def test_digits_are_read_as_text(self, table, folder):
        read = read_annotations(table("video,label\n0007.mp4,01\n"))

        assert read.clips[0].video == str(folder / "0007.mp4")
        assert read.labels == ("01",)

    def test_paths_are_relative_to_the_folder_of_the_videos(self, folder, tmp_path_factory):
        path = tmp_path_factory.mktemp("elsewhere") / "labels.csv"
        path.write_text("video,label\na.mp4,wave\n")

        assert read_annotations(path, folder).clips[0].video == str(folder / "a.mp4")

    def test_empty_lines_are_skipped_but_counted(self, table):
        read = read_annotations(table("video,label\na.mp4,wave\n\nb.mp4,nod\n"))

        assert [c.row for c in read.clips] == [2, 4]

    def test_duplicate_rows_are_dropped(self, table):
        read = read_annotations(table("video,label\na.mp4,wave\nb.mp4,nod\na.mp4,wave\n"))

        assert [c.row for c in read.clips] == [2, 3]


INVALID_TABLES = {
    "video,tag\na.mp4,wave\n": "missing: label; unknown: tag",
    "video,label,colour\na.mp4,wave,red\n": "unknown: colour",
    "video,label,start_seconds\na.mp4,wave,1\n": r"expected are video,label\[,start_seconds",
    "video,label\n": "has no rows",
    "video,label\n,wave\n": "row 2 .* has no video",
    "video,label\na.mp4,\n": "row 2 .*the label is empty",
    "video,label\na.mp4,wave\nb.mp4,wave | nod\n": "row 3 .*several labels, wave, nod",
    "video,label\nnone.mp4,wave\na.mp4,nod\nlost.mp4,nod\n": "rows 2, 4 .*no such file: .*lost.mp4",
    "video,label\na.mp4,wave\nb.mp4,nod\na.mp4,nod\n": "rows 2, 4 .*different labels: nod, wave",
    "video,label,group\na.mp4,wave,x\na.mp4,wave,y\n": "rows 2, 3 .*different groups: x, y",
    "video,label,start_seconds,end_seconds\na.mp4,wave,1,\n": "row 2 .*given both, or neither",
    "video,label,start_seconds,end_seconds\na.mp4,wave,one,2\n": "row 2 .*: 'one' is no time",
    "video,label,start_seconds,end_seconds\na.mp4,wave,2,2\n": "row 2 .*must be at least 0",
    "video,label,start_seconds,end_seconds\na.mp4,wave,-1,2\n": "row 2 .*must be at least 0",
    "video,label,start_seconds,end_seconds\na.mp4,wave,nan,2\n": "row 2 .*must be at least 0",
    "video,label,split\na.mp4,wave,dev\n": "row 2 .*one of train, validation, test",
    "video,label,split\na.mp4,wave,train\nb.mp4,nod,\n": "row 3 .*split is empty",
    "video,label\na.mp4,wave,g\nb.mp4,nod,h\n": "rows 2, 3 .*more values than the header has",
    "video,label,\na.mp4,wave,g\nb.mp4,nod,\n": "row 2 .*values in a column without a name",
    "video,label,Label\na.mp4,wave,\n": "row 1 .*the header has several columns label",
    "a.mp4,wave\nb.mp4,nod\n": "the first line names the columns a.mp4, wave; expected are video",
    'video,label\n"a.mp4,wave\nb.mp4,nod\n': "a quote around a value is never closed",
    "video,label\nhttps://me:secret@host/a.mp4?key=secret,wave\nb.mp4,nod\n": (
        "row 2 .*no such file: https://host/a.mp4$"
    ),
    "video,label,group,split\na.mp4,wave,ann,train\nb.mp4,nod,ben,test\nc.mp4,nod,ann,test\n": (
        "rows 2, 4 .*of one group, ann, are in different splits, test, train"
    ),
    "video,label,start_seconds,end_seconds,group,split\n"
    "a.mp4,wave,0,1,ann,train\nb.mp4,nod,0,1,ben,test\na.mp4,nod,1,2,ben,validation\n": (
        "rows 3, 4: .*of one group, ben, are in different splits"
    ),
    "video,label,start_seconds,end_seconds,group,split\n"
    "a.mp4,wave,0,1,ann,train\nb.mp4,nod,0,1,ben,test\na.mp4,nod,1,2,ben,test\n": (
        "rows 2, 4 .*of one video, .*a.mp4, are in different splits, test, train"
    ),
}


@pytest.mark.parametrize("text", INVALID_TABLES, ids=lambda text: INVALID_TABLES[text][:40])
def test_an_invalid_table_fails(table, text):
    with pytest.raises(SourceError, match=INVALID_TABLES[text]):
        read_annotations(table(text))


def test_a_missing_table_fails(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.csv cannot be read"):
        read_annotations(tmp_path / "nothing.csv")


def test_all_mistakes_are_reported_at_once(table):
    text = "video;label;start_seconds;end_seconds;split\n"
    rows = (
        *("a.mp4;;0;1;train", "none.mp4;wave;0;1;test", ";wave;0;1;test", "b.mp4;wave;3;2;test"),
        *("b.mp4;a|b;0;1;test", "c.mp4;nod;one;2;train", "c.mp4;nod;4;;dev", "c.mp4;nod;5;6;;7"),
    )

    with pytest.raises(SourceError) as caught:
        read_annotations(table(text + "\n".join(rows)))

    lines = str(caught.value).splitlines()
    assert lines[0].endswith("labels.csv has 10 mistakes:")
    assert [line.split(":")[0] for line in lines[1:]] == [
        *("  row 2", "  row 3", "  row 4", "  row 5", "  row 6", "  row 7"),
        *("  row 8", "  row 8", "  row 9", "  row 9"),
    ]


class TestTablesOfOtherPrograms:
    def test_a_spreadsheet_in_german(self, table, folder):
        """Semicolons, decimal commas, a byte order mark, CRLF, and an empty column."""
        path = table("")
        text = "Video;Label;Start Seconds;End-Seconds;\r\na.mp4;shake  hands ;0,5;1,25;\r\n"
        path.write_bytes(text.encode("utf-8-sig"))

        (clip,) = read_annotations(path).clips

        assert (clip.video, clip.label) == (str(folder / "a.mp4"), "shake hands")
        assert (clip.start_seconds, clip.end_seconds) == (0.5, 1.25)

    def test_clock_times_and_other_names_of_splits(self, table):
        text = "video,label,start_seconds,end_seconds,split\na.mp4,wave,1:30,00:02:00.5,Val\n"

        (clip,) = read_annotations(table(text)).clips

        assert (clip.start_seconds, clip.end_seconds, clip.split) == (90.0, 120.5, "validation")

    def test_a_video_may_be_named_na(self, table, folder):
        (folder / "NA").write_bytes(b"")

        assert read_annotations(table("video,label\nNA,null\n")).labels == ("null",)

    def test_similar_labels_give_a_note(self, table):
        text = "video,label\na.mp4,Shake hands\nb.mp4,shake_hands\nc.mp4,nod\n"

        assert read_annotations(table(text)).notes == (
            "the labels Shake hands and shake_hands differ in spelling only: are they one label?",
        )

    def test_a_guessed_encoding_gives_a_note(self, table, folder):
        (folder / "café.mp4").write_bytes(b"")
        path = table("")
        path.write_bytes("video,label\ncafé.mp4,trémolo\n".encode("cp1252"))

        read = read_annotations(path)

        assert read.clips[0].video == str(folder / "café.mp4")
        assert read.labels == ("trémolo",)
        assert read.notes == (
            f"{path} is not in UTF-8 and was read as Windows-1252: save it as UTF-8 if names look "
            "wrong",
        )

    def test_files_that_are_not_found_may_be_due_to_the_encoding(self, table):
        path = table("")
        path.write_bytes("video,label\nкот.mp4,wave\n".encode("cp1251"))

        with pytest.raises(
            SourceError, match=r"read as Windows-1252: save it as UTF-8(.*\n)*.*row 2"
        ):
            read_annotations(path)


class TestFolder:
    def test_a_sub_folder_is_a_label(self, tmp_path):
        for place in ("nod/b2.mp4", "nod/b10.mp4", "wave/deep/a.mp4"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_bytes(b"")

        read = read_annotations(tmp_path)

        assert read.labels == ("nod", "wave")
        assert [(Path(c.video).name, c.label, c.row) for c in read.clips] == [
            ("b2.mp4", "nod", 1),
            ("b10.mp4", "nod", 2),
            ("a.mp4", "wave", 3),
        ]
        assert read.clips[0].group == read.clips[0].video

    def test_a_folder_without_videos_fails(self, tmp_path):
        (tmp_path / "empty").mkdir()

        with pytest.raises(SourceError, match="must have a sub-folder with videos"):
            read_annotations(tmp_path)


class TestGroups:
    def test_a_label_of_two_groups_is_enough(self):
        clips = (clip(2, group="x"), clip(3, group="y"))

        require_groups(Annotations(clips, ("wave",)))

    def test_a_label_of_one_group_fails(self):
        clips = (clip(2), clip(3), clip(4, label="nod"), clip(5, label="nod", group="h"))

        with pytest.raises(SourceError, match=r"label wave occurs in 1 group only \(rows 2, 3\)"):
            require_groups(Annotations(clips, ("nod", "wave")))


def test_rows_are_listed():
    assert format_rows([clip(9)]) == "row 9"
    assert format_rows([clip(n) for n in (3, 2, 3)]) == "rows 2, 3"
