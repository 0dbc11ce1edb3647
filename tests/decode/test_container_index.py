from __future__ import annotations

import os
import socket
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest

from pipeline.decode.container_index import choose_stream, open_container, read_index
from pipeline.errors import VideoError
from tests.videos import (
    cut_copy,
    draw_number,
    spoil,
    turn,
    write_sound,
    write_streams,
    write_video,
)

PIXELS = 1_000_000
NO_MARK = av.stream.Disposition(0)
TURNS = {
    "as stored": ((1, 0, 0, 1), 0, False),
    "90": ((0, 1, -1, 0), 90, False),
    "180": ((-1, 0, 0, -1), 180, False),
    "270": ((0, -1, 1, 0), 270, False),
    "mirrored": ((-1, 0, 0, 1), 0, True),
    "upside down": ((1, 0, 0, -1), 180, True),
    "transposed": ((0, 1, 1, 0), 270, True),
    "transposed the other way": ((0, -1, -1, 0), 90, True),
}


DROPPED_TIMES = [n / 10 for n in (0, 1, 2, 5, 6, 9, 10)]


def write_dropped(path, **options):
    """Write an AVI of 11 frames, of which 4 are dropped."""
    settings = {"codec": "mpeg4", "times": DROPPED_TIMES, "time_base": Fraction(1, 10), **options}
    return write_video(path, len(DROPPED_TIMES), **settings)


def index_of(path, **options):
    return read_index(str(path), options.pop("max_pixels", PIXELS), **options)


def failure(path, **options):
    with pytest.raises(VideoError) as caught:
        index_of(path, **options)
    return caught.value.status, str(caught.value)


class TestReadIndex:
    def test_a_plain_file(self, tmp_path):
        index = index_of(write_video(tmp_path / "a.mp4", 30, size=(128, 64)))

        assert index.pts.tolist() == list(range(0, 30 * 512, 512))
        assert index.time_base == (1, 15360)
        assert index.duration_seconds == pytest.approx(1.0)
        assert (index.codec, index.pixel_format) == ("h264", "yuv420p")
        assert "mp4" in index.format
        assert (index.width, index.height) == (128, 64)
        assert (index.packets, index.packets_discarded, index.frames_from_header) == (30, 0, 30)
        assert (index.stream, index.video_streams) == (0, 1)
        assert index.steady
        assert index.timed
        assert index.seekable
        assert not index.interlaced
        assert not index.variable_frame_rate
        assert not index.truncated
        assert index.problem == ""

    def test_times_are_sorted_when_frames_are_stored_out_of_order(self, tmp_path):
        path = write_video(
            tmp_path / "a.mp4", 20, b_frames=3, options={"preset": "fast", "b_adapt": "0"}
        )
        with av.open(str(path)) as container:
            stored = [packet.pts for packet in container.demux(video=0) if packet.size]

        assert stored != sorted(stored)
        assert index_of(path).seconds == pytest.approx(np.arange(20) / 30)

    def test_variable_rate(self, tmp_path):
        times = [0, 0.04, 0.5, 0.52, 2.0]
        index = index_of(write_video(tmp_path / "a.mkv", 5, times=times))

        assert index.seconds == pytest.approx(times)
        assert index.variable_frame_rate
        assert index.longest_gap_seconds == pytest.approx(1.48)

    @pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
    def test_times_count_from_the_first_frame(self, tmp_path, suffix):
        times = [7 + n / 10 for n in range(5)]
        index = index_of(write_video(tmp_path / f"a{suffix}", 5, times=times))

        assert index.pts[0] * index.tick_seconds >= 7
        assert index.start_ticks == index.pts[0]
        assert index.seconds == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])

    def test_packets_hidden_by_an_edit_list(self, tmp_path):
        source = write_video(tmp_path / "a.mp4", 60, gop=1000)
        index = index_of(cut_copy(source, tmp_path / "cut.mp4", 1.5))

        assert (index.packets, index.packets_discarded) == (60, 45)
        assert index.frames_from_header == 60
        assert index.seconds == pytest.approx(np.arange(15) / 30)
        assert index.duration_seconds == pytest.approx(0.5)

    @pytest.mark.parametrize(("matrix", "rotation", "mirrored"), TURNS.values(), ids=TURNS.keys())
    def test_orientation(self, tmp_path, matrix, rotation, mirrored):
        index = index_of(turn(write_video(tmp_path / "a.mp4", 2, size=(128, 64)), matrix))

        assert (index.rotation, index.mirrored) == (rotation, mirrored)
        upright = (64, 128) if rotation in (90, 270) else (128, 64)
        assert (index.width, index.height) == upright

    def test_a_stream_without_times_counts_frames(self, tmp_path):
        index = index_of(write_video(tmp_path / "a.h264", 6, container="h264"))

        assert not index.timed
        assert not index.seekable
        assert len(index.pts) == 6
        assert index.steady

    def test_a_restarted_clock_is_continued(self, tmp_path):
        """Two recordings in one file, as `cat a.ts b.ts` joins them."""
        times = [n / 10 for n in range(40)]
        parts = [
            write_video(
                tmp_path / f"{n}.ts", 40, times=times, time_base=Fraction(1, 90000), first=n
            )
            for n in (0, 40)
        ]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))

        index = index_of(joined)

        assert len(index.pts) == 80
        assert index.seconds[:40] == pytest.approx(times)
        assert np.diff(index.seconds) == pytest.approx(np.full(79, 0.1), abs=0.011)
        assert index.bridged
        assert not index.seekable
        assert not index_of(parts[0]).bridged

    def test_interlaced(self, tmp_path):
        options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}

        assert index_of(write_video(tmp_path / "a.mp4", 4, options=options)).interlaced

    def test_a_header_that_claims_too_many_frames(self, tmp_path):
        whole = write_video(tmp_path / "a.mp4", 40, muxing={"movflags": "faststart"})
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])

        index = index_of(cut)

        assert index.frames_from_header == 40
        assert 0 < index.packets < 40
        assert index.truncated

    @pytest.mark.parametrize(
        ("codec", "pixel_format"), [("mpeg4", "yuv420p"), ("mjpeg", "yuvj420p")]
    )
    def test_dropped_frames_of_a_capture_card_are_not_missing(self, tmp_path, codec, pixel_format):
        """The header of an AVI counts them; they are chunks of no bytes, which FFmpeg skips."""
        path = write_dropped(tmp_path / "a.avi", codec=codec, pixel_format=pixel_format)

        index = index_of(path)

        assert (index.packets, index.packets_empty, index.frames_from_header) == (7, 4, 11)
        assert index.seconds == pytest.approx(DROPPED_TIMES)
        assert not index.truncated

    def test_a_truncated_file_with_dropped_frames(self, tmp_path):
        path = write_dropped(tmp_path / "a.avi")
        with av.open(str(path)) as container:
            end = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
        path.write_bytes(path.read_bytes()[: end[4]])

        index = index_of(path)

        assert (index.packets, index.packets_empty, index.frames_from_header) == (5, 2, 11)
        assert index.truncated

    def test_a_still_image_has_no_duration(self, tmp_path):
        path = write_video(tmp_path / "a.png", 1, codec="png", pixel_format="rgb24")
        index = index_of(path)

        assert index.duration_seconds == 0
        assert index.frame_rate is None

    def test_reports_progress_with_every_packet(self, tmp_path):
        """A long scan must not be taken for a hang."""
        path = write_video(tmp_path / "a.avi", 20, size=(16, 16), codec="mpeg4")
        counts = []

        index_of(path, progress=counts.append)

        assert counts == list(range(1, 21))

    def test_json_round_trip(self, tmp_path):
        index = index_of(write_video(tmp_path / "a.mp4", 3))
        again = type(index).from_json(index.to_json())

        assert again.to_json() == index.to_json()
        assert again.seconds.tolist() == index.seconds.tolist()


class TestReadIndexFails:
    def test_no_video(self, tmp_path):
        path = tmp_path / "a.mp4"
        path.write_bytes(b"\xff" * 5000)

        status, message = failure(path)

        assert status == "not_video"
        assert message == "no video container: invalid data found when processing input"

    def test_text_is_not_rendered_as_a_video(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("hello\n" * 200)

        assert failure(path) == ("not_video", "a text file")

    def test_sound_only(self, tmp_path):
        assert failure(write_sound(tmp_path / "a.m4a")) == (
            "not_video",
            "holds no video stream, only audio",
        )

    @pytest.mark.parametrize(
        ("name", "text", "kind"),
        [
            (
                "a.m3u8",
                "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nb.mp4\n#EXT-X-ENDLIST\n",
                "hls",
            ),
            ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nb.mp4\n", "hls"),
            ("a.mp4", "ffconcat version 1.0\nfile 'b.mp4'\n", "concat"),
        ],
    )
    def test_a_playlist(self, tmp_path, name, text, kind):
        """A playlist may refer to any file or host."""
        write_video(tmp_path / "b.mp4", 3)
        (tmp_path / name).write_text(text)

        assert failure(tmp_path / name) == (
            "not_video",
            f"a playlist ({kind}): give the files that it names",
        )

    def test_a_truncated_file_without_its_table(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 30)
        path.write_bytes(path.read_bytes()[:2000])

        status, message = failure(path)

        assert status == "undecodable"
        assert message.startswith("cut off")

    def test_a_missing_file(self, tmp_path):
        assert failure(tmp_path / "a.mp4") == (
            "unreadable",
            "cannot be read: No such file or directory",
        )

    def test_a_folder(self, tmp_path):
        assert failure(tmp_path) == ("unreadable", "cannot be read: Is a directory")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_without_permission(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 3)
        path.chmod(0)

        assert failure(path) == ("unreadable", "cannot be read: Permission denied")

    def test_too_many_pixels(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 3, size=(128, 64))

        assert failure(path, max_pixels=8191) == (
            "too_large",
            "claims 128 × 64 pixels; at most 8,191 are allowed (--max-pixels)",
        )
        assert index_of(path, max_pixels=8192).width == 128

    def test_no_packet_can_be_decoded(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", 4)

        status, message = failure(spoil(path, tmp_path / "b.mp4", range(4)))

        assert status == "undecodable"
        assert message == "no picture from 4 packets: invalid data found when processing input"


class TestChooseStream:
    def chosen(self, path):
        index = index_of(path)
        return index.stream, index.video_streams

    def test_prefers_the_default_stream(self, tmp_path):
        path = write_streams(
            tmp_path / "a.mkv", [0, 100, 200], sizes=[(192, 96), (64, 64), (64, 64)], default=1
        )

        assert self.chosen(path) == (1, 3)

    def test_prefers_the_stream_with_most_pixels(self):
        context = [SimpleNamespace(width=w, height=9, codec=None) for w in (10, 30, 20, 30)]
        streams = [
            SimpleNamespace(index=i, codec_context=c, frames=0, disposition=NO_MARK)
            for i, c in enumerate(context)
        ]
        container = SimpleNamespace(streams=SimpleNamespace(video=streams))

        stream, count = choose_stream("", container)

        assert (stream.index, count) == (1, 4), "the first of two equals"

    def test_no_decoder_fails(self):
        stream = SimpleNamespace(index=0, codec_context=None, frames=0, disposition=NO_MARK)
        container = SimpleNamespace(streams=SimpleNamespace(video=[stream]))

        with pytest.raises(VideoError, match="no decoder for the codec") as caught:
            choose_stream("", container)
        assert caught.value.status == "undecodable"

    def test_a_cover_image_is_not_a_video_stream(self, tmp_path):
        path = tmp_path / "a.mp4"
        with av.open(str(path), "w") as output:
            cover = output.add_stream("mjpeg", rate=25)
            cover.width, cover.height, cover.pix_fmt = 320, 320, "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            stream = output.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
            output.mux(cover.encode(av.VideoFrame.from_ndarray(draw_number(99, 320, 320))))
            for number in range(4):
                frame = av.VideoFrame.from_ndarray(draw_number(number, 128, 64))
                output.mux(stream.encode(frame))
            output.mux(stream.encode())

        index = index_of(path)

        assert (index.width, index.video_streams, len(index.pts)) == (128, 1, 4)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/b.mp4'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/b.ts\n",
    ],
)
def test_no_network_connection_is_made(tmp_path, text):
    """References to other hosts are not followed."""
    path = tmp_path / "a.m3u8"
    with socket.create_server(("127.0.0.1", 0)) as server:
        path.write_text(text.format(port=server.getsockname()[1]))
        server.settimeout(0.2)

        with pytest.raises(VideoError):
            open_container(str(path))
        with pytest.raises(TimeoutError):
            server.accept()
