from __future__ import annotations

from pipeline.config import Sampling
from pipeline.decode.fallback import index_video
from tests.decode.decoding import as_video, numbers, read_with
from tests.videos import write_video


def test_only_sampled_frames_are_converted(tmp_path, process):
    path = write_video(tmp_path / "a.mp4", 30, size=(128, 64))

    answer, images = read_with(process, "opencv", path, Sampling(every=7))

    assert numbers(images) == [0, 7, 14, 21, 28]
    assert answer["decoded"] == 30


def test_interlaced_frames_are_black_with_an_error(tmp_path, process):
    """The fallback relies on this error. When OpenCV is fixed, this test can go."""
    options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}
    path = write_video(tmp_path / "a.mp4", 4, size=(128, 64), options=options)

    answer, images = read_with(process, "opencv", path)

    wrong = numbers(images) != [0, 1, 2, 3]
    assert wrong == ("Cannot convert interlaced" in answer["decoder_stderr"])


def test_a_file_that_it_cannot_open_is_refused(tmp_path, process):
    path = write_video(tmp_path / "a.mp4", 4, size=(128, 64))
    index = index_video(process, as_video(path))
    path.write_bytes(b"no video any more")

    answer, _ = read_with(process, "opencv", path, index=index)

    assert answer["refused"] == "OpenCV cannot open it"
