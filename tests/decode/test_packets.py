from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest

from pipeline.decode.container_index import read_index
from pipeline.decode.packets import Packets, matroska_bytes, truncation
from tests.videos import write_video


class TestPackets:
    def times(self, clocks, rate=10, tick=Fraction(1, 10)):
        stream = SimpleNamespace(time_base=tick, average_rate=rate)
        packets = [SimpleNamespace(pts=c, dts=c, size=1, is_corrupt=False) for c in clocks]
        found = self.packets(packets, stream)
        return [packet.dts for packet in found], [packet.pts for packet in packets], found.bridged

    def packets(self, packets, stream=None):
        stream = stream or SimpleNamespace(time_base=Fraction(1, 10), average_rate=10)
        return Packets(SimpleNamespace(demux=lambda _: iter(packets), streams=[]), stream)

    def test_an_empty_packet_is_not_the_end(self):
        """MP4 stores a dropped frame as zero bytes; only PyAV's flush packet has no time."""
        clocks = [(1, 1), (1, 2), (0, 3), (1, 4), (0, None), (1, 9)]
        packets = [SimpleNamespace(pts=c, dts=c, size=s, is_corrupt=False) for s, c in clocks]
        found = self.packets(packets)

        assert [packet.pts for packet in found] == [1, 2, 4]
        assert found.empty_packets == 1

    def test_increasing_times_are_unchanged(self):
        assert self.times([5, 6, 7, 9, 30]) == ([5, 6, 7, 9, 30], [5, 6, 7, 9, 30], False)

    def test_a_restarted_clock_continues_after_the_packet_before(self):
        clocks = [*range(100, 130), *range(30), *range(30)]

        decoded, displayed, bridged = self.times(clocks)

        assert decoded == displayed == list(range(100, 190))
        assert bridged

    def test_small_steps_back_are_kept(self):
        clocks = [0, 4, 2, 1, 3, 8, 6, 5, 7]

        assert self.times(clocks) == (clocks, clocks, False)

    def test_packets_without_times_are_kept(self):
        assert self.times([None, None, 3, None]) == (
            [None, None, 3, None],
            [None, None, 3, None],
            False,
        )


class TestTruncation:
    """Truncation of a file is found in every container that makes it visible."""

    @pytest.mark.parametrize(
        ("name", "codec", "muxing"),
        [
            ("a.mkv", "libx264", {}),
            ("a.webm", "libvpx-vp9", {}),
            ("a.mp4", "libx264", {"movflags": "faststart"}),
            ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
            ("a.avi", "mpeg4", {}),
            ("a.flv", "libx264", {}),
        ],
        ids=["mkv", "webm", "mp4", "fragmented mp4", "avi", "flv"],
    )
    def test_any_truncation_is_found(self, tmp_path, name, codec, muxing):
        path = write_video(tmp_path / name, 60, codec=codec, muxing=muxing)
        whole = path.read_bytes()
        assert read_index(str(path), 10**6).problem == ""

        for percent in (70, 80, 90):
            path.write_bytes(whole[: len(whole) * percent // 100])
            index = read_index(str(path), 10**6)
            assert index.problem or index.truncated, f"cut to {percent} %"

    def test_the_words(self, tmp_path):
        path = write_video(tmp_path / "a.mkv", 30)
        size = path.stat().st_size
        packets = SimpleNamespace(last_is_cut=False)
        assert truncation(str(path), packets) == ""

        path.write_bytes(path.read_bytes()[:3000])
        assert (
            truncation(str(path), packets)
            == f"the header claims {size:,} bytes, the file has 3,000"
        )
        packets.last_is_cut = True
        assert truncation(str(path), packets) == "the file breaks off within its last packet"


class TestMatroskaBytes:
    HEADER = b"\x1aE\xdf\xa3\x82??"

    def claimed(self, tmp_path, head):
        (tmp_path / "a.mkv").write_bytes(head)
        return matroska_bytes(str(tmp_path / "a.mkv"))

    def test_of_an_undamaged_file(self, tmp_path):
        path = write_video(tmp_path / "a.mkv", 5)

        assert matroska_bytes(str(path)) == path.stat().st_size

    @pytest.mark.parametrize(
        ("size", "claimed"),
        [
            (b"\x85", 12 + 5),
            (b"\x40\x05", 13 + 5),
            (b"\x01\0\0\0\0\0\0\x07", 19 + 7),
            (b"\xff", None),
            (b"\x01\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x00\0\0\0\0\0\0\0\0", None),
            (b"", None),
            (b"\x40", None),
        ],
        ids=["1 byte", "2 bytes", "8 bytes", "open", "open, 8 bytes", "no size", "end", "cut"],
    )
    def test_sizes(self, tmp_path, size, claimed):
        assert self.claimed(tmp_path, self.HEADER + b"\x18S\x80g" + size) == claimed

    @pytest.mark.parametrize(
        "head",
        [
            b"",
            b"\x1aE\xdf\xa3",
            b"\x1aE\xdf\xa3\x08\xff\xff\xff\xff",
            b"RIFFxxxxAVI ",
            HEADER + b"??",
        ],
    )
    def test_other_formats_have_no_claimed_size(self, tmp_path, head):
        assert self.claimed(tmp_path, head) is None


def test_new_streams_do_not_end_reading(tmp_path):
    """PyAV raises an error after the last packet; the packets before are valid."""
    path = write_video(tmp_path / "a.ts", 30)
    other = write_video(tmp_path / "b.ts", 30, muxing={"mpegts_start_pid": "400"})
    path.write_bytes(path.read_bytes() + other.read_bytes())

    assert read_index(str(path), 10**6).packets == 30
