from __future__ import annotations

import threading

import pandas as pd
import pytest

from pipeline.browse.label_file import Answer, LabelFile
from pipeline.errors import SourceError
from pipeline.training.annotations import read_annotations

HEADER = "video,label,start_seconds,end_seconds,group\n"


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "videos" / "a, b.mp4"
    path.parent.mkdir()
    path.write_bytes(b"")
    return path


def answer(video, label="hug", start=0.0, end=2.0):
    return Answer(str(video), label, start, end)


def test_every_answer_is_on_the_disk_at_once(tmp_path, video):
    file = LabelFile(tmp_path / "labels.csv")
    assert not file.path.exists()

    for number in range(3):
        file.append(answer(video, start=2.0 * number, end=2.0 * number + 2))
        assert len(pd.read_csv(file.path)) == number + 1


def test_train_reads_the_file(tmp_path, video):
    file = LabelFile(tmp_path / "labels.csv")
    file.append(answer(video, "shake hands", 0.25, 2.5))
    file.append(answer(video, 'said "no", twice', 3.0, 4.0))

    clips = read_annotations(file.path).clips
    assert [clip.video for clip in clips] == [str(video)] * 2
    assert {clip.label for clip in clips} == {"shake hands", 'said "no", twice'}
    assert (clips[0].start_seconds, clips[0].end_seconds) == (0.25, 2.5)
    assert len({clip.group for clip in clips}) == 1


def test_whole_videos_have_no_times(tmp_path, video):
    file = LabelFile(tmp_path / "labels.csv")
    file.append(Answer(str(video), "hug", None, None))

    (clip,) = read_annotations(file.path).clips
    assert (clip.start_seconds, clip.end_seconds) == (None, None)


def test_paths_outside_the_folder_of_the_table_are_absolute(tmp_path, video):
    file = LabelFile(tmp_path / "elsewhere" / "labels.csv")
    file.append(answer(video))

    assert pd.read_csv(file.path).video.tolist() == [str(video)]


def test_rows_that_were_there_stay_as_they_are(tmp_path, video):
    path = tmp_path / "labels.csv"
    before = f'label,video,end_seconds,start_seconds\n"hug","{video}",1.50,0.0\n# free text,x,,'
    before = before.removesuffix("# free text,x,,")
    path.write_text(before)
    file = LabelFile(path)
    assert file.answers == [answer(video, "hug", 0.0, 1.5)]

    number = file.append(answer(video, "kick", 2, 3))

    assert path.read_text() == f'{before}kick,"videos/a, b.mp4",3,2\n'
    file.undo(number)
    assert path.read_text() == before


def test_a_missing_line_end_is_added(tmp_path, video):
    path = tmp_path / "labels.csv"
    path.write_text(HEADER.strip())

    LabelFile(path).append(answer(video))

    assert len(pd.read_csv(path)) == 1


def test_undo_removes_its_own_answer_only(tmp_path, video):
    file = LabelFile(tmp_path / "labels.csv")
    numbers = [file.append(answer(video, label)) for label in ("a", "b", "c")]

    assert file.undo(numbers[1]) == answer(video, "b")
    assert file.undo(numbers[1]) is None

    assert pd.read_csv(file.path).label.tolist() == ["a", "c"]
    file.append(answer(video, "d"))
    assert file.undo(numbers[2]) == answer(video, "c")
    assert pd.read_csv(file.path).label.tolist() == ["a", "d"]


def test_no_answer_of_two_browsers_is_lost(tmp_path, video):
    file = LabelFile(tmp_path / "labels.csv")

    def work(name):
        for number in range(30):
            made = file.append(answer(video, f"{name}{number}"))
            if number % 10 == 9:
                file.undo(made)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = {f"{name}{number}" for name in "ab" for number in range(30) if number % 10 != 9}
    assert sorted(pd.read_csv(file.path).label) == sorted(expected)


@pytest.mark.parametrize(
    "text",
    ["video,label\n", "video;label;start_seconds;end_seconds\n", "a,b\n", HEADER[:-1] + ",x\n"],
)
def test_other_tables_are_refused(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text)

    with pytest.raises(SourceError, match="give another file"):
        LabelFile(path)
    assert path.read_text() == text
