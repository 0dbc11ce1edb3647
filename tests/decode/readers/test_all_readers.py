"""All readers on the same videos, in a decode process as in a run."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest

from pipeline.config import Sampling
from pipeline.decode.fallback import index_video
from pipeline.decode.readers.choose import choose_readers, has_same_rgb
from tests.decode.decoding import as_video, decode, numbers, read_with
from tests.videos import cut_copy, draw_number, read_number, turn, write_streams, write_video

READERS = ("decord", "opencv", "pyav")
VARIABLE = [0, 0.04, 0.08, 0.5, 0.52, 0.6, 2, 2.04, 2.5, 2.54, 3.6, 4]
REORDERED = {"preset": "fast", "b_adapt": "0", "bf": "3"}


@dataclass(frozen=True)
class Kind:
    """A generated video for all readers."""

    name: str
    options: dict
    alike: bool = True
    """All readers must return the same images, bit for bit."""
    may_refuse: tuple[str, ...] = ()
    """Readers that refuse it on some processors, and read it on others."""


KINDS = [
    Kind("h264.mp4", {}),
    Kind("h264.mkv", {}),
    Kind("h264.ts", {}),
    Kind("reordered.mp4", {"b_frames": 3, "options": REORDERED}),
    Kind("mpeg4.avi", {"codec": "mpeg4"}),
    Kind("vp9.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}),
    Kind("mjpeg.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
    Kind("ffv1.mkv", {"codec": "ffv1"}),
    Kind("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
    Kind("422.mp4", {"pixel_format": "yuv422p"}),
    Kind("444.mp4", {"pixel_format": "yuv444p"}),
    Kind("variable.mp4", {"times": VARIABLE}),
    Kind("variable.mkv", {"times": VARIABLE}),
    Kind("late.mkv", {"times": [9 + n / 30 for n in range(12)]}),
    Kind("late.mp4", {"times": [9 + n / 30 for n in range(12)]}),
    Kind("broadcast rate.mp4", {"fps": Fraction(30000, 1001)}),
    Kind("narrow.mp4", {"size": (96, 64)}, may_refuse=("decord",)),
    Kind("odd.mkv", {"size": (129, 67), "codec": "ffv1"}, alike=False),
    Kind("10 bit.mp4", {"pixel_format": "yuv420p10le"}, alike=False),
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return {
        kind.name: write_video(folder / kind.name, 12, gop=5, **{"size": (128, 64), **kind.options})
        for kind in KINDS
    }


@pytest.fixture(scope="module")
def reference(process, videos):
    """The images that PyAV returns for each video."""
    return {name: read_with(process, "pyav", path)[1] for name, path in videos.items()}


def is_red(pixel):
    red, green, blue = pixel.astype(int)
    return red > 180 and max(green, blue) < 60


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
class TestEveryReaderOnEveryVideo:
    @pytest.mark.parametrize("reader", READERS)
    def test_same_frames_times_and_colours(self, kind, reader, videos, reference, process):
        path = videos[kind.name]
        index = index_video(process, as_video(path))
        answer, images = read_with(process, reader, path, index=index)

        if reader in kind.may_refuse and "refused" in answer:
            assert answer["refused"].startswith("Decord cannot convert frames of this width")
            return
        assert numbers(images) == list(range(12))
        assert answer["frame_index"] == list(range(12))
        assert answer["pts_seconds"] == pytest.approx(index.seconds, abs=1e-9)
        assert all(is_red(image[-6, -6]) for image in images)
        assert (answer["decoded"], answer["duplicated"], answer["damaged"]) == (12, 0, 0)
        assert (answer["problem"], answer["decoder_stderr"], answer["backwards"]) == ("", "", False)
        if kind.alike:
            assert np.array_equal(images, reference[kind.name])

    def test_has_same_rgb(self, kind, videos, process):
        """If readers round differently, one reader must read all of a video."""
        index = index_video(process, as_video(videos[kind.name]))

        assert has_same_rgb(index) == kind.alike
        if not kind.alike:
            for sparse in (False, True):
                assert choose_readers(index, sparse=sparse, middle=False)[0] == "pyav"


class TestOrientation:
    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize(
        ("matrix", "turns"), [((0, 1, -1, 0), 1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 3)]
    )
    def test_rotated(self, tmp_path, process, reader, matrix, turns):
        stored = write_video(tmp_path / "stored.mp4", 4, size=(256, 128))
        _, expected = read_with(process, reader, stored)
        _, upright = read_with(process, reader, turn(stored, matrix))

        back = np.rot90(upright, k=turns, axes=(1, 2))
        assert numbers(back) == [0, 1, 2, 3]
        assert np.array_equal(back, expected)

    @pytest.mark.parametrize("reader", ["opencv", "pyav"])
    def test_mirrored(self, tmp_path, process, reader):
        stored = write_video(tmp_path / "stored.mp4", 4, size=(128, 64))
        _, expected = read_with(process, reader, stored)
        _, upright = read_with(process, reader, turn(stored, (-1, 0, 0, 1)))
        _, transposed = read_with(process, reader, turn(stored, (0, 1, 1, 0)))

        assert np.array_equal(upright[:, :, ::-1], expected)
        assert np.array_equal(transposed.transpose(0, 2, 1, 3), expected)

    def test_decord_refuses_to_mirror(self, tmp_path, process):
        path = turn(write_video(tmp_path / "a.mp4", 4, size=(128, 64)), (-1, 0, 0, 1))

        answer, _ = read_with(process, "decord", path)

        assert answer["refused"] == "Decord can neither select a stream nor flip a frame"


class TestSeveralStreams:
    @pytest.fixture
    def path(self, tmp_path):
        return write_streams(tmp_path / "a.mkv", [0, 100], default=1)

    def test_pyav_reads_the_selected_stream(self, path, process):
        _, images = read_with(process, "pyav", path)

        assert numbers(images) == list(range(100, 110))

    @pytest.mark.parametrize(
        (("reader", "message")),
        [
            ("opencv", "OpenCV cannot select one of several video streams"),
            ("decord", "Decord can neither select a stream nor flip a frame"),
        ],
    )
    def test_others_refuse(self, path, process, reader, message):
        assert read_with(process, reader, path)[0]["refused"] == message


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """600 packets, 450 displayed frames, one group of pictures."""
    folder = tmp_path_factory.mktemp("cut")
    source = write_video(folder / "source.mp4", 600, size=(128, 64), gop=1000)
    return cut_copy(source, folder / "cut.mp4", 5.0)


@pytest.fixture(scope="module")
def reordered_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    options = {"b_frames": 3, "options": REORDERED}
    source = write_video(folder / "source.mp4", 200, size=(128, 64), gop=80, **options)
    return cut_copy(source, folder / "cut.mp4", 4.0)


class TestCutClip:
    """Packets hidden by an edit list: decoders that count packets hang (dmlc/decord#373)."""

    @pytest.mark.parametrize("reader", READERS)
    def test_all_displayed_frames_and_no_others(self, clip, process, reader):
        answer, images = read_with(process, reader, clip)

        assert numbers(images) == list(range(150, 600))
        assert answer["decoded"] == 450
        assert answer["pts_seconds"] == pytest.approx(np.arange(450) / 30, abs=1e-6)

    @pytest.mark.parametrize("reader", READERS)
    def test_with_frames_stored_out_of_order(self, reordered_clip, process, reader):
        answer, images = read_with(process, reader, reordered_clip)

        assert numbers(images) == list(range(120, 200))
        assert answer["pts_seconds"] == pytest.approx(np.arange(80) / 30, abs=1e-6)

    def test_pyav_comes_first(self, clip, process):
        index = index_video(process, as_video(clip))

        assert choose_readers(index, sparse=False, middle=False)[0] == "pyav"


SOUGHT = {
    "a.mp4": {},
    "reordered.mp4": {"b_frames": 3, "options": REORDERED},
    "a.mkv": {"b_frames": 3, "options": REORDERED},
    "a.ts": {},
    "reordered.ts": {"b_frames": 3, "options": REORDERED},
    "a.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "a.mpg": {"codec": "mpeg2video", "fps": 25},
    "a.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}},
    "a.h264": {"container": "h264"},
    "variable.mkv": {"times": [n * n / 60 for n in range(60)]},
    "one group.mp4": {"gop": 1000},
}


class TestMiddle:
    """Chunks that begin in the middle: in some containers FFmpeg seeks to the wrong place."""

    @pytest.mark.parametrize("name", SOUGHT)
    def test_chunks_join_to_the_whole_video(self, name, tmp_path, process):
        path = write_video(tmp_path / name, 60, **{"size": (128, 64), "gop": 12, **SOUGHT[name]})
        index = index_video(process, as_video(path))

        for start, stop, context in [(1, 4, 0), (11, 14, 1), (24, 25, 0), (31, 50, 6), (59, 60, 3)]:
            batch = decode(process, path, start=start, stop=stop, context=context, index=index)
            expected = list(range(max(0, start - context), stop))
            assert numbers(batch.images) == batch.sample_index.tolist() == expected
            assert batch.pts_seconds == pytest.approx(index.seconds[expected])
            assert batch.report.frames_decoded == batch.report.frames_expected == stop - start
            assert batch.report.status == "ok"

    def test_after_an_edit_list(self, tmp_path, process):
        source = write_video(tmp_path / "a.mp4", 90, size=(128, 64), gop=40)
        clip = cut_copy(source, tmp_path / "cut.mp4", 1.0)

        batch = decode(process, clip, start=20, stop=25)

        assert numbers(batch.images) == list(range(50, 55))

    def test_after_a_restarted_clock(self, tmp_path, process):
        """The same times occur twice: a seek could find the wrong packet."""
        times = [n / 10 for n in range(40)]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(
            b"".join(
                write_video(
                    tmp_path / "part.ts", 40, size=(128, 64), times=times, first=first
                ).read_bytes()
                for first in (0, 40)
            )
        )

        for start in (11, 24, 35, 60):
            batch = decode(process, joined, start=start, stop=start + 3)
            assert numbers(batch.images) == [start, start + 1, start + 2]

    def test_with_a_change_of_resolution(self, tmp_path, process):
        parts = [
            write_video(
                tmp_path / f"{first}.ts",
                20,
                size=size,
                first=first,
                times=[(first + n) / 30 for n in range(20)],
                time_base=Fraction(1, 90000),
            )
            for first, size in [(0, (256, 128)), (20, (128, 64))]
        ]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))

        assert numbers(decode(process, joined).images) == list(range(40))
        assert numbers(decode(process, joined, start=18, stop=22).images) == [18, 19, 20, 21]

    @pytest.mark.parametrize("reader", ["opencv", "decord"])
    def test_readers_that_cannot_seek_read_from_the_beginning(
        self, tmp_path, reader, forced_process
    ):
        path = write_video(tmp_path / "a.mp4", 60, size=(128, 64))

        batch = decode(forced_process(reader), path, start=30, stop=33, context=2)

        assert batch.report.decoder == reader
        assert numbers(batch.images) == [28, 29, 30, 31, 32]


@pytest.mark.parametrize("reader", READERS)
def test_readers_agree_on_real_clips(shared, process, reader):
    """Clips from phones, films and web sites in which every reader counts the same frames."""
    for name in ("k400_armwrestling.mp4", "v_ZNVhz7ctTq0.mp4"):
        path = shared / "data" / "clips" / name
        index = index_video(process, as_video(path))
        _, expected = read_with(process, "pyav", path, Sampling(fps=1), index=index)
        answer, images = read_with(process, reader, path, Sampling(fps=1), index=index)

        assert answer["decoded"] == len(index.pts)
        assert np.array_equal(images, expected)


def test_numbers_in_test_images_can_be_read():
    """All these tests rely on it."""
    assert [read_number(draw_number(n, 128, 64)) for n in range(0, 4096, 37)] == list(
        range(0, 4096, 37)
    )
