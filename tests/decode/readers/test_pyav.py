from __future__ import annotations

import os

import pytest

from pipeline.decode.fallback import index_video
from pipeline.decode.readers.base import Request
from pipeline.decode.readers.pyav import PyAVReader
from tests.decode.decoding import as_video, numbers, read_with
from tests.videos import spoil, write_video


def test_continues_after_a_packet_that_fails(tmp_path, process):
    path = write_video(tmp_path / "a.mp4", 36, size=(128, 64), gop=12)

    answer, images = read_with(process, "pyav", spoil(path, tmp_path / "b.mp4", range(12, 24)))

    assert numbers(images) == answer["frame_index"] == [*range(12), *range(24, 36)]
    assert (answer["decoded"], answer["damaged"]) == (24, 12)
    assert answer["problem"] == "invalid data found when processing input"


def test_corrupt_frames_are_counted(tmp_path, process):
    path = write_video(tmp_path / "a.mp4", 36, size=(128, 64), gop=12)

    answer, images = read_with(process, "pyav", spoil(path, tmp_path / "b.mp4", [20], 0.5))

    assert (answer["decoded"], answer["damaged"], answer["problem"]) == (36, 1, "")
    right = [k for k, number in enumerate(numbers(images)) if k == number]
    assert right[:20] == list(range(20))
    assert right[-12:] == list(range(24, 36))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: one thread in any case")
def test_a_frame_is_converted_by_the_thread_that_decoded_it(tmp_path, process):
    """PyAV would start a thread for each core, and wake all of them for every frame."""
    path = write_video(tmp_path / "a.mp4", 3)
    index = index_video(process, as_video(path))
    frames = PyAVReader(Request(str(path), index, None, lambda _: True)).frames()

    before = os.listdir("/proc/self/task")
    images = [frame.rgb() for frame in (next(frames), next(frames))]

    assert set(os.listdir("/proc/self/task")) <= set(before)
    assert numbers(images) == [0, 1]
