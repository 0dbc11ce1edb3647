from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.decode.fallback import index_video
from pipeline.decode.readers.choose import choose_readers, has_one_frame_per_packet
from tests.decode.decoding import as_video
from tests.videos import write_video


@pytest.fixture(scope="module")
def index(tmp_path_factory, process):
    """Index of an undamaged file."""
    path = write_video(tmp_path_factory.mktemp("plain") / "a.mp4", 8, size=(128, 64))
    return index_video(process, as_video(path))


class TestChooseReaders:
    def first(self, index, sparse=False, middle=False):
        return choose_readers(index, sparse=sparse, middle=middle)[0]

    def test_an_undamaged_file(self, index):
        assert choose_readers(index, sparse=False, middle=False) == ("decord", "pyav", "opencv")
        assert choose_readers(index, sparse=True, middle=False) == ("opencv", "pyav", "decord")

    def test_a_large_video_read_densely(self, index):
        """Decord is slower there: it copies each frame once more."""
        large = replace(index, width=854, height=480)
        assert choose_readers(large, sparse=False, middle=False) == ("pyav", "decord", "opencv")
        assert self.first(large, sparse=True) == "opencv"

    def test_the_middle_of_a_file(self, index):
        assert self.first(index, middle=True) == "pyav"

    def test_images(self, index):
        assert choose_readers(replace(index, format="images"), sparse=True, middle=True) == (
            "images",
        )

    @pytest.mark.parametrize(
        "flaw",
        [
            {"pts": np.array([0, 512, 512, 1024])},
            {"timed": False},
            {"packets_discarded": 1},
            {"video_streams": 2},
            {"codec": "mpeg4"},
            {"interlaced": True},
            {"pixel_format": "yuv420p10le"},
            {"width": 127},
            {"height": 63},
            {"pts": np.array([0])},
            {"frames_from_header": 9},
            {"problem": "the container broke off"},
        ],
        ids=lambda flaw: next(iter(flaw)),
    )
    def test_pyav_reads_anything_unusual(self, index, flaw):
        unusual = replace(index, **flaw)

        assert self.first(unusual) == "pyav"
        assert self.first(unusual, sparse=True) == "pyav"

    def test_all_readers_are_listed(self, index):
        for unusual in (index, replace(index, interlaced=True)):
            for sparse in (False, True):
                readers = choose_readers(unusual, sparse=sparse, middle=False)
                assert sorted(readers) == ["decord", "opencv", "pyav"]

    def test_packets_may_hold_single_fields(self, index):
        assert has_one_frame_per_packet(index)
        assert not has_one_frame_per_packet(replace(index, interlaced=True))
        assert not has_one_frame_per_packet(replace(index, codec="mpeg4"))
