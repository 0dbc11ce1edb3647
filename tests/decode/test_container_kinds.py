"""Containers as other programs, cameras and broken transfers leave them are read completely."""

from __future__ import annotations

import errno
import subprocess
from fractions import Fraction
from types import SimpleNamespace

import av
import av.error
import numpy as np
import pytest

from pipeline.decode.packets import Packets
from pipeline.decode.versions import reason_to_decode_again
from pipeline.records import DecodeReport
from tests.decode.decoding import as_video, decode, numbers, read_with
from tests.videos import draw_number, write_video


def copy_packets(source, target, *, change=lambda packet: None, start=0, container=None):
    """Copy the packets of a video from the packet `start` on; `change` may alter each."""
    with av.open(str(source)) as given, av.open(str(target), "w", format=container) as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        packets = [packet for packet in given.demux(stream) if packet.size]
        for packet in packets[start:]:
            packet.stream = copy
            change(packet)
            made.mux(packet)
    return target


def write_video_then_sound(path, count, tracks=1):
    """Write an MP4 file: its index, then all video, then the sound of all tracks."""
    options = {"movflags": "faststart", "max_interleave_delta": "1"}
    with av.open(str(path), "w", options=options) as made:
        video = made.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": "12"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        sounds = [made.add_stream("aac", rate=44100) for _ in range(tracks)]
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw_number(number))
            made.mux(video.encode(frame))
        made.mux(video.encode())
        for start in range(0, 44100 * count // 30, 1024):
            for sound in sounds:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.sample_rate, frame.pts = 44100, start
                made.mux(sound.encode(frame))
        for sound in sounds:
            made.mux(sound.encode())
    return path


class TestOtherTracksBeyondTheEnd:
    """Only the packets of the video decide where reading ends."""

    @pytest.mark.parametrize("tracks", [1, 3])
    @pytest.mark.parametrize("suffix", [".mp4", ".mov"])
    def test_cut_in_the_middle_of_the_video(self, suffix, tracks, tmp_path, process):
        path = write_video_then_sound(tmp_path / f"a{suffix}", 120, tracks)
        with av.open(str(path)) as given:
            packets = [(packet.stream.type, packet.pos) for packet in given.demux() if packet.size]
        places = [place for kind, place in packets if kind == "video"]
        assert places[61] < min(place for kind, place in packets if kind == "audio")
        path.write_bytes(path.read_bytes()[: places[61]])

        batch = decode(process, path)

        assert numbers(batch.images) == list(range(61))
        assert batch.report.status == "partial"
        assert "the header claims 120 frames, the file holds 61" in batch.report.error

    def test_whole(self, tmp_path, process):
        report = decode(process, write_video_then_sound(tmp_path / "a.mp4", 40)).report

        assert (report.status, report.frames_decoded) == ("ok", 40)


class TestRecordingsJoinedBetweenKeyFrames:
    @pytest.mark.parametrize(
        ("gop", "start", "suffix"),
        [(400, 60, ".ts"), (400, 60, ".mkv"), (300, 20, ".mp4"), (600, 10, ".ts")],
    )
    def test_the_first_picture_comes_late(self, gop, start, suffix, tmp_path, process):
        count = gop + 20
        source = write_video(tmp_path / "whole.mp4", count, gop=gop)
        path = copy_packets(source, tmp_path / f"a{suffix}", start=start)

        batch = decode(process, path)

        assert numbers(batch.images) == list(range(gop, count))
        assert batch.report.status == "partial"
        assert batch.report.frames_decoded == 20
        assert f"first picture comes at packet {gop - start + 1}" in batch.report.error

    @pytest.mark.parametrize(("suffix", "codec"), [(".h264", "libx264"), (".hevc", "libx265")])
    def test_a_raw_stream_keeps_its_times(self, suffix, codec, tmp_path, process):
        """Its frames are counted, and those that cannot be decoded count too."""
        x265 = {"x265-params": "keyint=100:min-keyint=100:scenecut=0:log-level=none"}
        options = x265 if codec == "libx265" else {}
        source = write_video(tmp_path / "a.mkv", 120, gop=100, codec=codec, options=options)
        path = copy_packets(source, tmp_path / f"a{suffix}", start=60)

        batch = decode(process, path)

        assert numbers(batch.images) == list(range(100, 120))
        assert batch.frame_index.tolist() == list(range(40, 60))
        assert batch.pts_seconds == pytest.approx(np.arange(40, 60) / 30)
        assert "20 of 60 frames: the first picture comes at packet 41" in batch.report.error


class TestKeyFramesThatAreNotMarked:
    """The decoder tells key frames where the container does not."""

    @pytest.mark.parametrize("codec", ["mpeg4", "msmpeg4", "libx264", "wmv2"])
    def test_all_frames(self, codec, tmp_path, process):
        source = write_video(tmp_path / "a.avi", 30, codec=codec, gop=10)

        def unmark(packet):
            packet.is_keyframe = False

        path = copy_packets(source, tmp_path / "b.nut", change=unmark)
        with av.open(str(path)) as given:
            assert not any(packet.is_keyframe for packet in given.demux(video=0))

        answer, images = read_with(process, "pyav", path)

        assert numbers(images) == list(range(30))
        assert answer["problem"] == ""

    @pytest.mark.parametrize("codec", ["mpeg4", "msmpeg4", "flv"])
    def test_frames_before_the_first_key_frame_are_left_out(self, codec, tmp_path, process):
        """Their pixels would be predicted from a grey frame."""
        suffix = ".flv" if codec == "flv" else ".mkv"
        source = write_video(tmp_path / f"a{suffix}", 30, codec=codec, gop=10)
        path = copy_packets(source, tmp_path / f"b{suffix}", start=14)

        batch = decode(process, path)

        assert numbers(batch.images) == list(range(20, 30))
        assert batch.report.status == "partial"


class TestDroppedFramesOfAvi:
    """Frames that an encoder dropped are chunks of zero bytes; nothing is missing."""

    @pytest.fixture
    def copied(self, tmp_path, ffmpeg):
        """H.264 with reordered frames: the clock of the AVI file has two ticks for each frame."""
        options = {"preset": "medium", "b_adapt": "0"}
        source = write_video(tmp_path / "a.mp4", 120, b_frames=3, options=options)
        path = tmp_path / "a.avi"
        subprocess.run([ffmpeg, "-v", "error", "-i", source, "-c", "copy", path], check=True)
        with av.open(str(path)) as given:
            assert given.streams.video[0].frames == 240
        return path

    def test_nothing_is_missing(self, copied, process):
        path = copied

        batch = decode(process, path)

        assert numbers(batch.images) == list(range(120))
        assert (batch.report.status, batch.report.error) == ("ok", "")
        assert batch.report.frames_decoded == batch.report.frames_expected == 120
        assert batch.pts_seconds == pytest.approx(np.arange(120) / 30)
        assert batch.report.duration_seconds == pytest.approx(4)
        assert not batch.report.variable_frame_rate

    def test_a_truncated_file_is_still_partial(self, copied, process):
        copied.write_bytes(copied.read_bytes()[: copied.stat().st_size // 2])

        assert decode(process, copied).report.status == "partial"


class Source:
    """Stands for a container whose demuxer gives packets, and raises errors in between."""

    def __init__(self, steps):
        self.steps = iter(steps)
        self.streams = []

    def demux(self, stream):
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            yield step


class TestTryAgain:
    """Demuxers answer "try again" (EAGAIN) at the end of the file, or between packets."""

    AGAIN = av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def read(self, steps):
        stream = SimpleNamespace(
            index=0, time_base=Fraction(1, 30), average_rate=None, guessed_rate=None, base_rate=None
        )
        return [packet.pts for packet in Packets(Source(steps), stream)]

    def packets(self, *times):
        return [SimpleNamespace(size=9, pts=t, dts=t, is_corrupt=False) for t in times]

    def test_at_the_end_of_the_file(self):
        assert self.read([*self.packets(0, 1, 2), *[self.AGAIN] * 99]) == [0, 1, 2]

    def test_between_packets(self):
        steps = [self.AGAIN, *self.packets(0, 1), self.AGAIN, self.AGAIN, *self.packets(2)]

        assert self.read(steps) == [0, 1, 2]

    def test_other_errors_are_damage(self):
        damage = av.error.InvalidDataError(1, "Invalid data found when processing input")

        with pytest.raises(av.error.InvalidDataError):
            self.read([*self.packets(0), damage])


class TestSeveralStreamsMarkedAsDefault:
    def write(self, path, counts, *, marks=None):
        """Write streams with different numbers of frames and all, or some, marked as default."""
        with av.open(str(path), "w") as made:
            streams = [made.add_stream("libx264", rate=30) for _ in counts]
            for number, stream in enumerate(streams):
                stream.width, stream.height, stream.pix_fmt = (256, 128, "yuv420p")
                if counts[number] > 5:
                    stream.width, stream.height = 128, 64
                marked = marks is None or number in marks
                stream.disposition = av.stream.Disposition(int(marked))
            for stream, count in zip(streams, counts, strict=True):
                first = 100 * stream.index
                for number in range(count):
                    image = draw_number(first + number, stream.width, stream.height)
                    made.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
                made.mux(stream.encode())
        return path

    @pytest.mark.parametrize("counts", [(2, 53), (53, 2), (1, 2, 53)])
    @pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
    def test_a_video_is_preferred_to_still_pictures(self, suffix, counts, tmp_path, process):
        path = self.write(tmp_path / f"a{suffix}", counts)

        batch = decode(process, path)

        first = 100 * counts.index(53)
        assert numbers(batch.images) == list(range(first, first + 53))
        assert batch.report.video_streams == len(counts)
        assert batch.report.status == "ok"

    def test_the_only_one_that_is_marked_is_taken(self, tmp_path, process):
        batch = decode(process, self.write(tmp_path / "a.mkv", (20, 30), marks={0}))

        assert numbers(batch.images) == list(range(20))


@pytest.mark.parametrize(
    ("report", "again"),
    [
        (DecodeReport("partial", "the container broke off: invalid data found"), True),
        (DecodeReport("partial", "the header claims 122 frames, the file holds 31"), True),
        (DecodeReport("partial", "1 of 30 frames: no key frame to begin with"), True),
        (DecodeReport("undecodable", "no picture from 300 packets: invalid data"), True),
        (DecodeReport("undecodable", "no picture from 30 packets: invalid data"), False),
        (DecodeReport("partial", "the header claims 240 frames, the file holds 238"), True),
        (DecodeReport("ok", video_streams=2), True),
        (DecodeReport("ok", video_streams=1), False),
        (DecodeReport("partial", "29 of 30 frames: invalid data found"), False),
        (DecodeReport("not_video", "text"), False),
    ],
)
def test_which_earlier_results_are_computed_again(report, again):
    assert bool(reason_to_decode_again(as_video("a.avi"), [report])) == again
