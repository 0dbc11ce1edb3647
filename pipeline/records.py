"""
What passes between the stages. Each record checks itself when made.

Shapes, here and everywhere:
    B  pictures a batch             T  sampled frames of a video
    N  clips                        L  frames a clip
    H, W  height, width (pixels)    D  features a frame
    K  labels

Pictures are RGB uint8 in [0, 255], (H, W, 3). Times are seconds from the first displayed frame of
the video. Ranges are half-open: [start, stop).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Seconds = NDArray[np.float64]
Integers = NDArray[np.int64]

STATUSES = {
    "ok": "every frame was decoded, and nothing says that any is missing",
    "partial": "the file is cut off or damaged; the frames that could be decoded were used",
    "not_video": "the file holds no video",
    "undecodable": "a video stream is there, but no frame of it could be decoded",
    "decode_timeout": "every decoder hung, or the time allowed for the file was used up",
    "decode_crash": "every decoder crashed",
    "out_of_memory": "decoding needed more memory than allowed",
    "too_large": "frames have more pixels than allowed",
    "too_long": "the video is longer than allowed",
    "unreadable": "the file could not be read (permission, or an I/O error, three times)",
    "missing": "the list names a file that is not there",
}
"""Every status a video can have, and what it means."""

TRANSIENT = frozenset({"decode_timeout", "decode_crash", "out_of_memory", "unreadable"})
"""Statuses that another attempt on a healthier machine may change."""


@dataclass(frozen=True, slots=True)
class Video:
    """One source: a video file, or a folder of numbered images."""

    path: str
    """As the user named it, printable: undecodable bytes are escaped."""
    location: str
    """Absolute path for the operating system."""
    kind: Literal["file", "images"]
    video_id: str
    """Fingerprint of the content, so a renamed file is the same video and a changed one is not."""
    size_bytes: int
    image_fps: float | None = None
    """Frames a second of an image sequence, as the user gave it."""
    failure: tuple[str, str] | None = None
    """Status and message of a source that is known to be unusable before it is opened."""
    copies: tuple[tuple[str, str], ...] = ()
    """Path and location of other files with the same content: they share its results."""


@dataclass(frozen=True)
class VideoIndex:
    """What the container says of one video stream, packet by packet."""

    format: str
    codec: str
    pixel_format: str
    width: int
    """Of the upright picture, in pixels."""
    height: int
    rotation: int
    """Degrees clockwise (0, 90, 180, 270) that turn the stored picture upright."""
    mirrored: bool
    """Whether the stored picture is flipped left to right before it is turned."""
    interlaced: bool
    stream: int
    """Index of the stream in the container."""
    video_streams: int
    """Video streams in the container, cover pictures not counted."""
    time_base: tuple[int, int]
    """Seconds a tick, as a fraction."""
    pts: Integers
    """Presentation ticks of the displayable packets, ascending, (P,)."""
    last_duration: int
    """Ticks that the last frame is displayed; 0 where the container does not say."""
    start_ticks: int
    """Ticks that the container calls the start of the stream."""
    packets: int
    packets_discarded: int
    """Packets that the container says to decode and not to display (an edit list, a cut)."""
    frames_from_header: int | None
    """Frames that the header claims; None where it claims nothing."""
    timed: bool = True
    """Whether packets carry times; else `pts` counts frames at the rate of the stream."""
    bridged: bool = False
    """Whether clocks that restart on the way were joined in `pts`."""
    problem: str = ""
    """What went wrong while the container was read, if anything."""
    keys: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    """Presentation ticks of the key frames, ascending: where decoding may begin."""
    packets_empty: int = 0
    """Frames stored as no bytes that the header counts: the one before each is shown on."""

    @cached_property
    def tick_seconds(self) -> float:
        """Seconds a tick."""
        return self.time_base[0] / self.time_base[1]

    @cached_property
    def seconds(self) -> Seconds:
        """Time of each displayable packet, (P,)."""
        return (self.pts - self.pts[0]) * self.tick_seconds if len(self.pts) else np.zeros(0)

    @cached_property
    def steady(self) -> bool:
        """Whether times are unique, so that a frame is known by its time."""
        return bool(np.all(np.diff(self.pts) > 0))

    @cached_property
    def _gaps_seconds(self) -> Seconds:
        return np.diff(self.seconds)

    @property
    def seekable(self) -> bool:
        """Whether a reader can start in the middle, by a time of `pts`."""
        return self.steady and self.timed and not self.bridged

    @property
    def frame_seconds(self) -> float:
        """Typical time that a frame is displayed: the median; 0 for a single frame."""
        gaps = self._gaps_seconds
        return float(np.median(gaps)) if len(gaps) else 0.0

    @property
    def duration_seconds(self) -> float:
        """From the first displayed frame to the end of the last."""
        if not len(self.pts):
            return 0.0
        last = self.last_duration * self.tick_seconds or self.frame_seconds
        return float(self.seconds[-1]) + last

    @property
    def frame_rate(self) -> float | None:
        """Average frames a second; None for a single frame of unknown duration."""
        return len(self.pts) / self.duration_seconds if self.duration_seconds > 0 else None

    @property
    def variable_frame_rate(self) -> bool:
        """Whether gaps between frames differ by more than a rounded tick."""
        gaps = self._gaps_seconds
        return bool(len(gaps)) and float(np.ptp(gaps)) > 2 * max(self.tick_seconds, 1e-3) + 1e-9

    @property
    def longest_gap_seconds(self) -> float:
        """Longest time from one frame to the next."""
        return float(self._gaps_seconds.max(initial=0.0))

    @property
    def truncated(self) -> bool:
        """Whether the header claims more frames than the file holds packets, empty ones too."""
        held = self.packets + self.packets_empty
        return self.frames_from_header is not None and self.frames_from_header > held

    @property
    def key_frames(self) -> Integers:
        """Positions of the key frames among the frames, ascending."""
        return np.searchsorted(self.pts, self.keys)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "pts": self.pts.tolist(), "keys": self.keys.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> VideoIndex:
        """Read what `to_json` wrote."""
        ticks = {name: np.asarray(values[name], dtype=np.int64) for name in ("pts", "keys")}
        return cls(**{**values, **ticks, "time_base": tuple(values["time_base"])})


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """The verdict on one video: the facts in its row of `videos`."""

    status: str
    error: str = ""
    decoder: str = ""
    """Reader that gave the pictures."""
    attempts: tuple[str, ...] = ()
    """What the readers tried before said, in order."""
    codec: str | None = None
    pixel_format: str | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    duration_seconds: float | None = None
    frame_rate: float | None = None
    variable_frame_rate: bool | None = None
    longest_gap_seconds: float | None = None
    edit_list: bool | None = None
    video_streams: int | None = None
    packets: int | None = None
    packets_discarded: int | None = None
    frames_from_header: int | None = None
    frames_expected: int | None = None
    frames_decoded: int = 0
    frames_duplicated: int = 0
    """Decoded frames whose time repeats that of the frame before."""
    frames_missing: int = 0
    frames_damaged: int = 0
    """Pictures that the decoder marked as damaged, and packets that it refused."""
    frames_sampled: int = 0

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")

    @property
    def transient(self) -> bool:
        """Whether another attempt may end otherwise."""
        return self.status in TRANSIENT

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {**dataclasses.asdict(self), "attempts": list(self.attempts)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DecodeReport:
        """Read what `to_json` wrote."""
        return cls(**{**values, "attempts": tuple(values["attempts"])})


@dataclass(frozen=True, slots=True)
class Chunk:
    """The samples [start, stop) of one video: all of a short one, or a part of a long one."""

    video: Video
    index: VideoIndex | None
    """None where the container could not be read; `report` then says why."""
    start: int
    stop: int
    num_samples: int
    """Samples of the whole video."""
    context: int = 0
    """Samples before `start` that the encoder looks back at."""
    report: DecodeReport | None = None

    @property
    def whole(self) -> bool:
        """Whether this is all of the video."""
        return self.start == 0 and self.stop == self.num_samples


@dataclass(frozen=True, slots=True)
class Shard:
    """
    The unit of work, of retry and of resume.

    Either whole short videos, or one chunk of a long one, or videos whose features are stored.
    """

    chunks: tuple[Chunk, ...] = ()
    cached: tuple[Video, ...] = ()


@dataclass(frozen=True)
class FrameBatch:
    """The sampled frames of one chunk, context first. Pictures lie in memory that is lent."""

    chunk: Chunk
    images: Images
    """(T, H, W, 3)."""
    sample_index: Integers
    """Number of each sample in the video, (T,)."""
    frame_index: Integers
    """Position of each frame among the frames of the video, (T,)."""
    pts_seconds: Seconds
    """Time of each frame, (T,)."""
    report: DecodeReport
    resized: bool = False
    """Whether the pictures are cut to what the backbone wants already."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(f"images must be (T, H, W, 3), got {self.images.shape}")
        if self.images.dtype != np.uint8:
            raise ValueError(f"images must be uint8, got {self.images.dtype}")
        _check_lengths(
            images=self.images,
            sample_index=self.sample_index,
            frame_index=self.frame_index,
            pts_seconds=self.pts_seconds,
        )


@dataclass(frozen=True)
class FrameFeatures:
    """One row of features a sampled frame: the samples [start, stop) of one video."""

    video_id: str
    start: int
    stop: int
    num_samples: int
    """Samples of the whole video."""
    values: NDArray[np.float16]
    """(T, D)."""
    sample_index: Integers
    """(T,); a sample that could not be decoded leaves a gap."""
    frame_index: Integers
    """(T,)."""
    pts_seconds: Seconds
    """(T,)."""
    report: DecodeReport

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.float16:
            raise ValueError(
                f"values must be float16 of shape (T, D), got {self.values.dtype} "
                f"of shape {self.values.shape}"
            )
        _check_lengths(
            values=self.values,
            sample_index=self.sample_index,
            frame_index=self.frame_index,
            pts_seconds=self.pts_seconds,
        )

    @property
    def whole(self) -> bool:
        """Whether this is all of the video."""
        return self.start == 0 and self.stop == self.num_samples

    @classmethod
    def nothing(cls, video_id: str, size: int, report: DecodeReport) -> FrameFeatures:
        """Give the features of a video without frames, which keep its report."""
        none = np.zeros(0, np.int64)
        values = np.zeros((0, size), np.float16)
        return cls(video_id, 0, 0, 0, values, none, none, np.zeros(0), report)


def merge_reports(reports: Sequence[DecodeReport]) -> DecodeReport:
    """Make one verdict of those on the chunks of a video."""
    if len(reports) == 1:
        return reports[0]
    counts: dict[str, Any] = {
        name: sum(getattr(report, name) or 0 for report in reports)
        for name in (
            "frames_expected",
            "frames_decoded",
            "frames_duplicated",
            "frames_missing",
            "frames_damaged",
            "frames_sampled",
        )
    }
    bad = [report for report in reports if report.status != "ok"]
    status = "ok" if not bad else "partial" if counts["frames_decoded"] else bad[0].status
    return dataclasses.replace(
        reports[0],
        status=status,
        error=bad[0].error if bad else "",
        decoder="+".join(dict.fromkeys(r.decoder for r in reports if r.decoder)),
        attempts=tuple(dict.fromkeys(said for report in reports for said in report.attempts)),
        **counts,
    )


def _check_lengths(**arrays: NDArray[Any]) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"arrays differ in length: {lengths}")
