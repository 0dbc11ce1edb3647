"""Labels as people write them: what is understood, and what is refused and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.training.annotations import (
    Labelled,
    LabelledClip,
    name_rows,
    read_labels,
    require_groups,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four files that are there; nothing looks into them."""
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


def clip(row: int, **values) -> LabelledClip:
    return LabelledClip(
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
        read = read_labels(table("video,label\na.mp4,wave\nb.mp4,nod\n"))

        assert read.labels == ("nod", "wave")
        assert read.clips[0] == LabelledClip(
            str(folder / "a.mp4"), "wave", None, None, str(folder / "a.mp4"), None, 2
        )
        assert [c.row for c in read.clips] == [2, 3]

    def test_times_groups_and_splits_are_read(self, table):
        text = "video,label,start_seconds,end_seconds,group,split\n"
        read = read_labels(table(text + "a.mp4,wave,0.5,2,ann,train\na.mp4,nod,2,3.25,ann,train\n"))

        assert [(c.start_seconds, c.end_seconds) for c in read.clips] == [(0.5, 2.0), (2.0, 3.25)]
        assert {(c.group, c.split) for c in read.clips} == {("ann", "train")}

    def test_rows_without_times_may_stand_beside_rows_with_them(self, table):
        text = "video,label,start_seconds,end_seconds\n"
        read = read_labels(table(text + "a.mp4,wave,,\nb.mp4,nod,1,2\n"))

        assert [c.end_seconds for c in read.clips] == [None, 2.0]

    def test_a_group_that_is_not_named_is_the_video(self, table, folder):
        read = read_labels(table("video,label,group\na.mp4,wave,\nb.mp4,nod,g\n"))

        assert [c.group for c in read.clips] == [str(folder / "a.mp4"), "g"]

    def test_digits_are_names(self, table, folder):
        read = read_labels(table("video,label\n0007.mp4,01\n"))

        assert read.clips[0].video == str(folder / "0007.mp4")
        assert read.labels == ("01",)

    def test_paths_count_from_the_folder_of_the_videos(self, folder, tmp_path_factory):
        path = tmp_path_factory.mktemp("elsewhere") / "labels.csv"
        path.write_text("video,label\na.mp4,wave\n")

        assert read_labels(path, folder).clips[0].video == str(folder / "a.mp4")

    def test_empty_lines_are_passed_over_and_counted(self, table):
        read = read_labels(table("video,label\na.mp4,wave\n\nb.mp4,nod\n"))

        assert [c.row for c in read.clips] == [2, 4]

    def test_a_row_that_says_the_same_again_counts_once(self, table):
        read = read_labels(table("video,label\na.mp4,wave\nb.mp4,nod\na.mp4,wave\n"))

        assert [c.row for c in read.clips] == [2, 3]


BAD_TABLES = {
    "video,tag\na.mp4,wave\n": "missing: label; unknown: tag",
    "video,label,colour\na.mp4,wave,red\n": "unknown: colour",
    "video,label,start_seconds\na.mp4,wave,1\n": r"wanted are video,label\[,start_seconds",
    "video,label\n": "has no rows",
    "video,label\n,wave\n": "row 2 .* names no video",
    "video,label\na.mp4,\n": "row 2 .*the label is empty",
    "video,label\na.mp4,shake hands\nb.mp4,nod\n": "row 2 .*no spaces, got 'shake hands'",
    "video,label\na.mp4, wave\n": "row 2 .*no spaces, got ' wave'",
    "video,label\nnone.mp4,wave\na.mp4,nod\nlost.mp4,nod\n": "rows 2, 4 .*no such file: .*lost.mp4",
    "video,label\na.mp4,wave\nb.mp4,nod\na.mp4,nod\n": "rows 2, 4 .*different labels: nod, wave",
    "video,label,group\na.mp4,wave,x\na.mp4,wave,y\n": "rows 2, 3 .*different groups: x, y",
    "video,label,start_seconds,end_seconds\na.mp4,wave,1,\n": "row 2 has one of start_seconds",
    "video,label,start_seconds,end_seconds\na.mp4,wave,one,2\n": "row 2: start_seconds .*'one'",
    "video,label,start_seconds,end_seconds\na.mp4,wave,2,2\n": "row 2 .*must be 0 or more",
    "video,label,start_seconds,end_seconds\na.mp4,wave,-1,2\n": "row 2 .*must be 0 or more",
    "video,label,start_seconds,end_seconds\na.mp4,wave,nan,2\n": "row 2 .*must be 0 or more",
    "video,label,split\na.mp4,wave,dev\n": "row 2 .*one of train, validation, test",
    "video,label,split\na.mp4,wave,train\nb.mp4,nod,\n": "row 3 .*split is empty",
    "video,label\na.mp4,wave,\nb.mp4,nod,\n": "rows .*more values than its header.*end no row",
    "video,label\na.mp4,wave,g\nb.mp4,nod,h\n": "rows .*more values than its header has columns",
    "video,label,group,split\na.mp4,wave,ann,train\nb.mp4,nod,ben,test\nc.mp4,nod,ann,test\n": (
        "rows 2, 4 .*of one group, ann, on different sides of the split: test, train"
    ),
    "video,label,start_seconds,end_seconds,group,split\n"
    "a.mp4,wave,0,1,ann,train\nb.mp4,nod,0,1,ben,test\na.mp4,nod,1,2,ben,validation\n": (
        "rows 3, 4 .*of one group, ben, on different sides"
    ),
    "video,label,start_seconds,end_seconds,group,split\n"
    "a.mp4,wave,0,1,ann,train\nb.mp4,nod,0,1,ben,test\na.mp4,nod,1,2,ben,test\n": (
        "rows 2, 4 .*of one video, .*a.mp4, on different sides of the split: test, train"
    ),
}


@pytest.mark.parametrize("text", BAD_TABLES, ids=lambda text: BAD_TABLES[text][:40])
def test_a_bad_table_fails(table, text):
    with pytest.raises(SourceError, match=BAD_TABLES[text]):
        read_labels(table(text))


def test_a_table_that_is_not_there_fails(tmp_path):
    with pytest.raises(SourceError, match=r"nothing\.csv cannot be read"):
        read_labels(tmp_path / "nothing.csv")


class TestFolder:
    def test_a_sub_folder_is_a_label(self, tmp_path):
        for place in ("nod/b2.mp4", "nod/b10.mp4", "wave/deep/a.mp4"):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place).write_bytes(b"")

        read = read_labels(tmp_path)

        assert read.labels == ("nod", "wave")
        assert [(Path(c.video).name, c.label, c.row) for c in read.clips] == [
            ("b2.mp4", "nod", 1),
            ("b10.mp4", "nod", 2),
            ("a.mp4", "wave", 3),
        ]
        assert read.clips[0].group == read.clips[0].video

    def test_a_folder_without_videos_fails(self, tmp_path):
        (tmp_path / "empty").mkdir()

        with pytest.raises(SourceError, match="no sub-folders with videos"):
            read_labels(tmp_path)


class TestGroups:
    def test_a_label_of_two_groups_is_enough(self):
        clips = (clip(2, group="x"), clip(3, group="y"))

        require_groups(Labelled(clips, ("wave",)))

    def test_a_label_of_one_group_fails(self):
        clips = (clip(2), clip(3), clip(4, label="nod"), clip(5, label="nod", group="h"))

        with pytest.raises(SourceError, match=r"label wave occurs in 1 group only \(rows 2, 3\)"):
            require_groups(Labelled(clips, ("nod", "wave")))


def test_rows_are_named_by_the_first_few():
    assert name_rows([clip(9)]) == "row 9"
    assert name_rows([clip(n) for n in (3, 2, 3)]) == "rows 2, 3"
    assert name_rows([clip(n) for n in range(8)]) == "rows 0, 1, 2, 3, 4 and 3 more"
