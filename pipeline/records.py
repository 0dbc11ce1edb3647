"""
Records that pass between the stages. Each checks its shapes and dtypes when it is created.

Notation used for shapes, here and everywhere:
    B  images of a batch            T  sampled frames of a video
    N  clips                        L  frames of a clip
    H, W  height, width in pixels   D  features of a frame
    K  labels

A *frame* is one moment of a video, with a presentation time; an *image* is its pixels: RGB uint8 in
[0, 255], (H, W, 3). Times are seconds since the first displayed frame of the video; *ticks* are
times in the unit of the container. Ranges are half-open: [start, stop).
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
"""RGB images, (H, W, 3) or (T, H, W, 3)."""
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
"""All statuses of a video, with their meaning."""

TRANSIENT = frozenset({"decode_timeout", "decode_crash", "out_of_memory", "unreadable"})
"""Statuses that may change when the video is decoded again."""
LIMITED = frozenset({"too_large", "too_long"})
"""Statuses that depend on options of the run, not on the video alone."""
NOT_STORED = TRANSIENT | LIMITED
"""Statuses that the feature store does not keep: another run may end otherwise."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video file, or a folder of numbered images."""

    path: str
    """As the user named it, printable: bytes that are not UTF-8 are escaped."""
    location: str
    """Absolute path for the operating system."""
    kind: Literal["file", "images"]
    video_id: str
    """Fingerprint of the content: a renamed file is the same video, a changed one is not."""
    size_bytes: int
    image_fps: float | None = None
    """Frame rate of an image sequence or of a raw stream, as given by the user."""
    failure: tuple[str, str] | None = None
    """Status and message of a source that cannot be opened."""
    copies: tuple[tuple[str, str], ...] = ()
    """Path and location of other files with the same content, which get the same rows."""


@dataclass(frozen=True)
class VideoIndex:
    """Index of one video stream, from the packets of its container."""

    format: str
    codec: str
    pixel_format: str
    width: int
    """Width of the upright frame, in pixels."""
    height: int
    rotation: int
    """Degrees clockwise (0, 90, 180, 270) by which the stored frame is rotated to be upright."""
    mirrored: bool
    """Whether the stored frame is flipped left to right before the rotation."""
    interlaced: bool
    stream: int
    """Index of the stream in the container."""
    video_streams: int
    """Number of video streams in the container, without cover images."""
    time_base: tuple[int, int]
    """Seconds per tick, as a fraction: numerator, denominator."""
    pts: Integers
    """Presentation times of the displayed packets in ticks, ascending, (P,)."""
    last_duration: int
    """Duration of the last frame in ticks; 0 where it is unknown."""
    start_ticks: int
    """Start time of the stream in ticks, from the container."""
    packets: int
    packets_discarded: int
    """Packets that are decoded and not displayed (hidden by an edit list)."""
    frames_from_header: int | None
    """Number of frames that the header claims; None where it claims none."""
    timed: bool = True
    """Whether packets have times; otherwise `pts` is computed from the frame rate of the stream."""
    bridged: bool = False
    """Whether the clock of the stream restarts, and `pts` was made continuous."""
    problem: str = ""
    """The error while the container was read; empty if there was none."""
    keys: Integers = field(default_factory=lambda: np.zeros(0, np.int64))
    """Presentation times of the key frames in ticks, ascending: decoding may start there."""
    packets_empty: int = 0
    """Frames of zero bytes that the header counts: the frame before stays visible."""
    frames_before_first: int = 0
    """Frames before the first key frame, which cannot be decoded, of a stream without times."""
    frame_rate_assumed: bool = False
    """Whether a raw stream states no frame rate, and 25 frames per second are assumed."""
    value_range: tuple[float, float] | None = None
    """Sample values that are black and white, for pictures with more than 8 bits per sample."""
    note: str = ""
    """What a user should know about how the file is read."""

    @cached_property
    def tick_seconds(self) -> float:
        """Seconds per tick."""
        return self.time_base[0] / self.time_base[1]

    @cached_property
    def seconds(self) -> Seconds:
        """Time of each displayed packet in seconds, (P,)."""
        return (self.pts - self.pts[0]) * self.tick_seconds if len(self.pts) else np.zeros(0)

    @cached_property
    def steady(self) -> bool:
        """Whether times are unique, so that a time identifies a frame."""
        return bool(np.all(np.diff(self.pts) > 0))

    @cached_property
    def _gaps_seconds(self) -> Seconds:
        return np.diff(self.seconds)

    @property
    def seekable(self) -> bool:
        """Whether a reader can start in the middle, at a time of `pts`."""
        return self.steady and self.timed and not self.bridged

    @property
    def frame_seconds(self) -> float:
        """Median duration of a frame; 0 for a single frame."""
        gaps = self._gaps_seconds
        return float(np.median(gaps)) if len(gaps) else 0.0

    @property
    def duration_seconds(self) -> float:
        """Time from the first displayed frame to the end of the last one."""
        if not len(self.pts):
            return 0.0
        last = self.last_duration * self.tick_seconds or self.frame_seconds
        return float(self.seconds[-1]) + last

    @property
    def frame_rate(self) -> float | None:
        """Average frames per second; None for a single frame of unknown duration."""
        return len(self.pts) / self.duration_seconds if self.duration_seconds > 0 else None

    @property
    def variable_frame_rate(self) -> bool:
        """Whether the times between frames differ by more than rounding to ticks explains."""
        gaps = self._gaps_seconds
        return bool(len(gaps)) and float(np.ptp(gaps)) > 2 * max(self.tick_seconds, 1e-3) + 1e-9

    @property
    def longest_gap_seconds(self) -> float:
        """Longest time between two frames."""
        return float(self._gaps_seconds.max(initial=0.0))

    @property
    def truncated(self) -> bool:
        """Whether the header claims more frames than the file holds packets, empty ones too."""
        held = self.packets + self.packets_empty
        return self.frames_from_header is not None and self.frames_from_header > held

    @property
    def key_frames(self) -> Integers:
        """Positions of the key frames among all frames, ascending."""
        return np.searchsorted(self.pts, self.keys)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, which `from_json` reads."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**values, "pts": self.pts.tolist(), "keys": self.keys.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> VideoIndex:
        """Convert back what `to_json` returned."""
        ticks = {name: np.asarray(values[name], dtype=np.int64) for name in ("pts", "keys")}
        pairs = {k: values[k] and tuple(values[k]) for k in ("time_base", "value_range")}
        return cls(**{**values, **ticks, **pairs})


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """The result of decoding one video; its fields are columns of the table `videos`."""

    status: str
    error: str = ""
    decoder: str = ""
    """Name of the reader whose images are used."""
    attempts: tuple[str, ...] = ()
    """Errors of the readers tried before, in order."""
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
    """Decoded frames with the same time as the frame before."""
    frames_missing: int = 0
    frames_damaged: int = 0
    """Frames that the decoder marked as corrupt, and packets that it could not decode."""
    frames_sampled: int = 0
    one_sample_per_frame: bool = False
    """Whether each frame was sampled once, at the time from which it is shown, since the video has
    at most one frame per second; otherwise samples have the times of the sampling."""
    note: str = ""
    """What a user should know about a video that was decoded as it should be."""
    frame_rate_assumed: bool | None = None
    """Whether the file states no frame rate, and 25 frames per second are assumed."""
    decoding_version: int = 1
    """Version of the decoding, see `pipeline.decode.versions`."""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")

    @property
    def transient(self) -> bool:
        """Whether decoding again may change the status."""
        return self.status in TRANSIENT

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values, which `from_json` reads."""
        return {**dataclasses.asdict(self), "attempts": list(self.attempts)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DecodeReport:
        """Convert back what `to_json` returned, of any version: unknown fields are ignored."""
        known = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        return cls(**{**known, "attempts": tuple(values.get("attempts", ()))})


@dataclass(frozen=True, slots=True)
class Chunk:
    """The samples [start, stop) of one video: a whole short one, or a part of a long one."""

    video: Video
    index: VideoIndex | None
    """None where the container could not be read; `report` then holds the reason."""
    start: int
    stop: int
    num_samples: int
    """Number of samples of the whole video."""
    context: int = 0
    """Samples before `start` that the encoder needs too."""
    report: DecodeReport | None = None

    @property
    def whole(self) -> bool:
        """Whether this is the whole video."""
        return self.start == 0 and self.stop == self.num_samples


@dataclass(frozen=True, slots=True)
class Shard:
    """
    The unit of work, of retry and of resume.

    It holds either whole short videos, or one chunk of a long one, or videos whose features are in
    the feature store.
    """

    chunks: tuple[Chunk, ...] = ()
    """To decode and encode."""
    cached: tuple[Video, ...] = ()
    """With features in the store."""
    shots_only: bool = False
    """Whether `chunks` have features, and only their shots are missing."""


@dataclass(frozen=True)
class FrameBatch:
    """The sampled frames of one chunk, context first. The memory of the images is reused later."""

    chunk: Chunk
    images: Images
    """(T, H, W, 3)."""
    sample_index: Integers
    """Index of each sample in the video, (T,)."""
    frame_index: Integers
    """Position of each frame among the frames of the video, (T,)."""
    pts_seconds: Seconds
    """Presentation time of each frame, (T,)."""
    report: DecodeReport
    resized: bool = False
    """Whether the images already have the size of the backbone."""
    shots: dict[str, Any] | None = None
    """JSON values of `pipeline.decode.shot_detector`, if shots were looked for."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(f"images must be (T, H, W, 3), got {self.images.shape}")
        if self.images.dtype != np.uint8:
            raise ValueError(f"images must be uint8, got {self.images.dtype}")
        _check_lengths(self, "images", "sample_index", "frame_index", "pts_seconds")


@dataclass(frozen=True)
class FrameFeatures:
    """Features of the samples [start, stop) of one video, one row for each."""

    video_id: str
    start: int
    stop: int
    num_samples: int
    """Number of samples of the whole video."""
    values: NDArray[np.float16]
    """(T, D)."""
    sample_index: Integers
    """(T,), ascending; samples that could not be decoded are missing."""
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
        _check_lengths(self, "values", "sample_index", "frame_index", "pts_seconds")

    @property
    def whole(self) -> bool:
        """Whether this is the whole video."""
        return self.start == 0 and self.stop == self.num_samples

    @classmethod
    def empty(cls, video_id: str, size: int, report: DecodeReport) -> FrameFeatures:
        """Create the features of a video without frames, which hold its report."""
        empty = np.zeros(0, np.int64)
        values = np.zeros((0, size), np.float16)
        return cls(video_id, 0, 0, 0, values, empty, empty, np.zeros(0), report)


def merge_reports(reports: Sequence[DecodeReport]) -> DecodeReport:
    """Merge the reports on the chunks of a video into one."""
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
        attempts=tuple(dict.fromkeys(error for report in reports for error in report.attempts)),
        **counts,
    )


def _check_lengths(record: FrameBatch | FrameFeatures, *names: str) -> None:
    lengths = {name: len(getattr(record, name)) for name in names}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"arrays differ in length: {lengths}")
