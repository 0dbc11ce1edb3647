"""Unusual and malformed videos: all frames that they hold are decoded, with the right numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.config import DecodeOptions, EncodeOptions, RunOptions, Sampling
from pipeline.decode.process_pool import DecodeProcess
from pipeline.results.tables import load
from pipeline.run.process import process_videos
from tests.decode.decoding import ALL, decode, numbers
from tests.resilience.mutations import SOURCES
from tests.videos import cut_copy, write_streams, write_video

SIZE = (128, 64)
COUNT = 30
MPEG_TICK = Fraction(1, 90000)
SECONDS = [n / 30 for n in range(COUNT)]
VARIABLE = [0.0, 0.02, 0.3, 0.34, 0.36, 0.9, 0.91, 1.4, 1.5, 1.51, 2.6, 2.7]


@dataclass(frozen=True)
class UnusualVideo:
    """A video, and the expected result of decoding."""

    name: str
    draw: Callable[[Path], Path]
    shown: tuple[int, ...] = tuple(range(COUNT))
    """Numbers of the displayed frames."""
    times: tuple[float, ...] | None = tuple(SECONDS)
    """Presentation times in seconds; None if they are not tested."""
    status: str = "ok"


def generate(**options) -> Callable[[Path], Path]:
    return lambda path: write_video(path, COUNT, **{"size": SIZE, **options})


def with_times(*times: float, **options) -> Callable[[Path], Path]:
    """Write frames with given presentation times."""
    return lambda path: write_video(
        path, len(times), **{"size": SIZE, "times": times, "time_base": MPEG_TICK, **options}
    )


def with_packets(
    source: Callable[[Path], Path], change: Callable[[int, av.Packet], bool | None]
) -> Callable[[Path], Path]:
    """Write a video, and copy it with changed packets; False removes a packet."""

    def draw(path: Path) -> Path:
        first = source(path.with_name(f"first {path.name}"))
        how = {"avoid_negative_ts": "disabled"}
        with av.open(str(first)) as given, av.open(str(path), "w", options=how) as made:
            copy = made.add_stream_from_template(given.streams.video[0])
            for number, packet in enumerate(given.demux(video=0)):
                if packet.size and change(number, packet) is not False:
                    packet.stream = copy
                    made.mux(packet)
        return path

    return draw


def three_seconds_early(number: int, packet: av.Packet) -> None:
    """Matroska has no negative times: packets are read without times."""
    shift = round(3 / packet.time_base)
    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift


def behind_the_key_frame(number: int, packet: av.Packet) -> bool:
    return number >= 5


def twice_each(number: int, packet: av.Packet) -> None:
    packet.pts = packet.dts = number // 2 * 100


def back_and_forth(number: int, packet: av.Packet) -> None:
    packet.dts = number
    packet.pts = 100 * (number + (number % 3 == 2) - 2 * (number % 3 == 0)) + 300


def concatenate(*parts: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Concatenate several files, byte by byte."""

    def draw(path: Path) -> Path:
        written = [part(path.with_name(f"{n} {path.name}")) for n, part in enumerate(parts)]
        path.write_bytes(b"".join(part.read_bytes() for part in written))
        return path

    return draw


def cut(path: Path) -> Path:
    """Cut a clip without encoding: its times begin at -5 s, its header counts hidden frames."""
    source = write_video(path.with_name(f"long {path.name}"), 330, size=SIZE, gop=1000)
    return cut_copy(source, path, 5.0)


JPEG = {"codec": "mjpeg", "pixel_format": "yuvj420p"}
UNUSUAL_VIDEOS = [
    UnusualVideo("a cut clip.mp4", cut, tuple(range(150, 330)), tuple(n / 30 for n in range(180))),
    UnusualVideo("narrow.mp4", generate(size=(96, 64))),
    UnusualVideo("odd sides.mkv", generate(size=(97, 65), codec="ffv1")),
    UnusualVideo(
        "a line.mkv", generate(size=(128, 1), codec="ffv1", pixel_format="gray"), (), None
    ),
    UnusualVideo(
        "one pixel.mkv", generate(size=(1, 1), codec="ffv1", pixel_format="yuv444p"), (), None
    ),
    UnusualVideo(
        "another size on the way.ts",
        concatenate(
            with_times(*SECONDS, size=(256, 128)),
            with_times(*(1 + s for s in SECONDS), first=COUNT),
        ),
        tuple(range(2 * COUNT)),
        tuple(n / 30 for n in range(2 * COUNT)),
    ),
    UnusualVideo(
        "several streams.mp4", lambda path: write_streams(path, [0, 100], COUNT, default=0)
    ),
    UnusualVideo("without times.mkv", with_packets(generate(), three_seconds_early), times=None),
    UnusualVideo("starts at 26 h.ts", with_times(*(93600 + s for s in SECONDS))),
    UnusualVideo("starts at 26 h.mkv", with_times(*(93600 + s for s in SECONDS))),
    UnusualVideo("clock runs over.ts", with_times(*(2**33 / 90000 - 0.5 + s for s in SECONDS))),
    UnusualVideo(
        "clock starts again.ts",
        concatenate(generate(), generate(first=COUNT)),
        tuple(range(60)),
        None,
    ),
    UnusualVideo("times repeat.mkv", with_packets(generate(**JPEG), twice_each), times=None),
    UnusualVideo("times go back.mkv", with_packets(generate(**JPEG), back_and_forth), times=None),
    UnusualVideo("variable rate.mp4", with_times(*VARIABLE), tuple(range(12)), tuple(VARIABLE)),
    UnusualVideo("interlaced.mpg", generate(codec="mpeg2video", options={"flags": "+ildct+ilme"})),
    UnusualVideo(
        "interlaced.mp4", generate(options={"flags": "+ildct+ilme", "x264-params": "tff=1"})
    ),
    UnusualVideo("10 bit.mkv", generate(codec="ffv1", pixel_format="yuv422p10le")),
    UnusualVideo("10 bit.mp4", generate(pixel_format="yuv420p10le")),
    UnusualVideo("16 bit grey.mkv", generate(codec="ffv1", pixel_format="gray16le")),
    UnusualVideo("alpha.webm", generate(codec="libvpx-vp9", pixel_format="yuva420p")),
    UnusualVideo("alpha.mov", generate(codec="qtrle", pixel_format="argb")),
    *(
        UnusualVideo(
            f"no key frame at the start.{suffix}",
            with_packets(generate(gop=12, codec=codec), behind_the_key_frame),
            tuple(range(12, COUNT)),
            None,
            "partial",
        )
        for suffix, codec in SOURCES.items()
    ),
]
NAMES = [
    b"with spaces.mp4",
    b'quote\'s "double".mp4',
    b"new\nline.mp4",
    b"-o.mp4",
    b"--help",
    "🎬 ünïcode.mp4".encode(),
    b"caf\xe9 \xff\xfe.mp4",
    b"%s %d %05d.mp4",
    b"; rm -rf $HOME `id` | true &.mp4",
    b"<script>alert(1)</script>.mp4".replace(b"/", b"-"),
    b"colon:in name.mp4",
    b"back\\slash.mp4",
    b"[brackets]{braces}*?.mp4",
    b"x" * 251 + b".mp4",
]


@pytest.fixture(scope="module")
def process():
    made = DecodeProcess(DecodeOptions(frame_timeout_seconds=20))
    yield made
    made.kill()


@pytest.mark.parametrize("case", UNUSUAL_VIDEOS, ids=lambda case: case.name)
class TestUnusualVideos:
    @pytest.fixture
    def path(self, case, tmp_path):
        return case.draw(tmp_path / case.name)

    def test_every_frame(self, case, path, process):
        batch = decode(process, path, ALL)

        assert batch.report.status == case.status, batch.report
        assert batch.report.frames_decoded == len(batch.images) == len(case.shown or SECONDS)
        if case.shown:
            assert numbers(batch.images) == list(case.shown)
        if case.times is not None:
            assert batch.pts_seconds == pytest.approx(case.times, abs=2e-3)

    def test_frames_by_time(self, case, path, process):
        """Sample k is what a player shows at k / 8 seconds."""
        if not case.shown or case.times is None:
            pytest.skip("its frames are not known by their times")
        batch = decode(process, path, Sampling(fps=8))

        ends = case.times[-1] + np.median(np.diff(case.times))
        assert batch.sample_index.tolist() == list(range(int(np.ceil(ends * 8 - 1e-2))))
        shown = np.searchsorted(case.times, batch.sample_index / 8 + 2e-3, side="right") - 1
        assert numbers(batch.images) == [case.shown[place] for place in shown]


def test_any_file_name_is_processed(tmp_path, tiny_recognizer, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    content = write_video(tmp_path / "a.mp4", 12).read_bytes()
    for number, name in enumerate(NAMES):
        (videos / os.fsdecode(name)).write_bytes(
            content + bytes([number])
        )  # different content: no copies

    process_videos(
        [str(videos)],
        out,
        RunOptions(
            recognizer=str(tiny_recognizer),
            decode=DecodeOptions(workers=1),
            encode=EncodeOptions(precision="float32"),
        ),
    )

    rows = load(out, "videos")
    assert sorted(map(os.path.basename, rows.video)) == sorted(
        name.decode("utf-8", "backslashreplace") for name in NAMES
    )
    assert set(rows.status) == {"ok"}
    assert sorted(load(out, "clips").video) == sorted(rows.video)
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page
