"""
Options: one frozen class a stage, checked when made, with a hash that is the same on every machine.

Only options that change what a user reads belong to the identity of a result (`fingerprint`);
batch sizes, worker counts and deadlines do not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pipeline.errors import OptionError
from pipeline.records import STATUSES

ReaderName = Literal["auto", "decord", "opencv", "pyav"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Fit = Literal["short", "squash"]


def fingerprint(*parts: Any) -> str:
    """
    Hash options and plain values into 16 hex digits, the same on every machine.

    Dataclasses are hashed by class name and fields, everything else as JSON.
    """
    text = json.dumps(parts, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    raise TypeError(f"cannot hash a {type(value).__name__}")


def require_positive(**values: float | None) -> None:
    """
    Check that options are finite and greater than 0; None passes.

    Raises:
        OptionError: one is not; the message names it.
    """
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise OptionError(f"{name} must be a number above 0, got {value}")


def require_in_range(low: float, high: float, **values: float) -> None:
    """
    Check that options lie in [low, high].

    Raises:
        OptionError: one does not; the message names it.
    """
    for name, value in values.items():
        if not low <= value <= high:
            wanted = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"{low:g} or more"
            raise OptionError(f"{name} must be {wanted}, got {value}")


def require_one_of(choices: Any, **values: str) -> None:
    """
    Check that options are among the values of a `Literal` type.

    Raises:
        OptionError: one is not; the message names it.
    """
    names = get_args(choices)
    for name, value in values.items():
        if value not in names:
            raise OptionError(f"{name} must be one of {', '.join(names)}, got {value}")


def _as_numbers(options: Any, kind: type, *names: str) -> None:
    """Store 8 as 8.0, or 2.0 as 2: equal options must have equal fingerprints."""
    for name in names:
        value = getattr(options, name)
        if value is not None:
            object.__setattr__(options, name, kind(value))


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a video are used. Exactly one of the two is set."""

    fps: float | None = None
    """Sample k is the frame displayed at k / fps seconds."""
    every: int | None = None
    """Every n-th frame; 1 takes all."""

    def __post_init__(self) -> None:
        if (self.fps is None) == (self.every is None):
            raise OptionError(f"set one of fps and every, got {self.fps=} and {self.every=}")
        require_positive(fps=self.fps, every=self.every)
        if self.every is not None and self.every != int(self.every):
            raise OptionError(f"every must be a whole number, got {self.every}")
        _as_numbers(self, float, "fps")
        _as_numbers(self, int, "every")

    def __str__(self) -> str:
        if self.fps:
            return f"{self.fps:g} frames/s"
        return "every frame" if self.every == 1 else f"one frame in {self.every}"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The pictures that an encoder wants, and how they are cut from a frame."""

    height: int
    width: int
    fit: Fit = "short"
    """`short`: scale the short side, then crop the centre. `squash`: scale both sides."""
    crop_fraction: float = 1.0
    """Side of the centre crop over the short side of the scaled frame."""
    reducing_gap: float = 2.0
    """Frames are shrunk by whole factors while still this many times larger than wanted, so that
    a last antialiased resize is exact to the eye of the encoder; 1 shrinks to the wanted size."""

    def __post_init__(self) -> None:
        require_positive(height=self.height, width=self.width, reducing_gap=self.reducing_gap)
        require_one_of(Fit, fit=self.fit)
        if not 0 < self.crop_fraction <= 1:
            raise OptionError(f"crop_fraction must be in (0, 1], got {self.crop_fraction}")

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of a square frame once scaled, before the crop."""
        return (
            math.floor(self.height / self.crop_fraction),
            math.floor(self.width / self.crop_fraction),
        )


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """How files are decoded. Changes how long it takes and what is refused, never a picture."""

    reader: ReaderName = "auto"
    workers: int = 0
    """Decode processes; 0 is one a core."""
    frame_timeout_seconds: float = 20.0
    """A decoder that gives no new frame for so long is killed."""
    video_timeout_seconds: float = 900.0
    """Budget of one attempt at one file, or at one chunk of a long file, of up to 30,000 frames;
    more frames have more, in proportion."""
    max_pixels: int = 200_000_000
    """Pixels a frame."""
    max_video_seconds: float = 48 * 3600.0
    memory_bytes: int = 4 << 30
    """Memory that one decode process may take for itself."""

    def __post_init__(self) -> None:
        require_one_of(ReaderName, reader=self.reader)
        require_positive(
            frame_timeout_seconds=self.frame_timeout_seconds,
            video_timeout_seconds=self.video_timeout_seconds,
            max_pixels=self.max_pixels,
            max_video_seconds=self.max_video_seconds,
            memory_bytes=self.memory_bytes,
        )
        if self.workers < 0:
            raise OptionError(f"workers must be 0 (one a core) or more, got {self.workers}")

    @property
    def num_workers(self) -> int:
        """Decode processes to run."""
        return self.workers or len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Where and how exactly the encoder runs."""

    device: Device = "auto"
    precision: Precision = "auto"
    batch_size: int = 0
    """Frames a batch; 0 finds the fastest once, and keeps it."""

    def __post_init__(self) -> None:
        require_one_of(Device, device=self.device)
        require_one_of(Precision, precision=self.precision)
        if self.batch_size < 0:
            raise OptionError(f"batch_size must be 0 (automatic) or more, got {self.batch_size}")


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """How a video is cut into clips. Clips never straddle a shot cut that the recognizer finds."""

    seconds: float | None = None
    """Length of a clip; None makes one clip of each shot, or of the video where no cut is found."""
    stride_seconds: float | None = None
    """From the start of a clip to the start of the next; None is the length of a clip."""

    def __post_init__(self) -> None:
        require_positive(clip_seconds=self.seconds, stride_seconds=self.stride_seconds)
        if self.seconds is None and self.stride_seconds is not None:
            raise OptionError("stride_seconds needs clip_seconds: whole videos have no stride")
        _as_numbers(self, float, "seconds", "stride_seconds")


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """How work is cut. Changes speed and memory, never a row."""

    max_frames: int = 4096
    """Sampled frames a shard: the more, the less is spent on what each shard costs."""
    max_bytes: int = 384 << 20
    """Bytes of pictures a shard, as they wait for the encoder."""
    max_videos: int = 256
    window: int = 0
    """Shards in flight: while one holds the encoder, the others decode. 0 chooses by decode
    processes and memory."""

    def __post_init__(self) -> None:
        require_positive(
            max_frames=self.max_frames,
            max_bytes=self.max_bytes,
            max_videos=self.max_videos,
        )
        if self.window < 0:
            raise OptionError(f"window must be 0 (automatic) or more, got {self.window}")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Everything about a run but its sources and where the results go. All of it is plain JSON."""

    recognizer: str | None = "camera-motion"
    """Name of a bundled recognizer, or its folder; None only fills the feature store."""
    backbone: str | None = None
    """Where no recognizer says which: a name for `load_backbone`. With a recognizer: where to find
    its backbone, should its own name not do here."""
    weights: str | None = None
    """Safetensors file for the backbone."""
    tap: str | None = None
    grid: int | None = None
    sampling: Sampling | None = None
    """Other than the recognizer's."""
    clips: ClipWindows | None = None
    """Other than the recognizer's."""
    frames: bool = False
    """Write one row a sampled frame."""
    embeddings: bool = False
    """Write the pooled state of each clip."""
    novelty: str | None = None
    """Folder of a novelty model; None tells no novelty."""
    features: str | None = None
    """Folder of the feature store; by default that of the results."""
    image_fps: float | None = None
    full_hash: bool = False
    retry: tuple[str, ...] = ()
    """Statuses whose videos are processed again."""
    wait: bool = False
    """Wait for another run on the same results folder instead of refusing."""
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    shards: ShardOptions = field(default_factory=ShardOptions)

    def __post_init__(self) -> None:
        if self.recognizer is None and self.backbone is None:
            raise OptionError("without a recognizer, a backbone must be named (--backbone)")
        if self.recognizer is None and self.sampling is None:
            raise OptionError("without a recognizer, the sampling must be given (--sample-fps)")
        if self.recognizer is None and self.novelty is not None:
            raise OptionError("novelty is told of clips, which need a recognizer (--recognizer)")
        require_positive(image_fps=self.image_fps)
        unknown = sorted(set(self.retry) - set(STATUSES))
        if unknown:
            raise OptionError(f"no status {', '.join(unknown)}; there are {', '.join(STATUSES)}")

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunOptions:
        """
        Read what `to_json` wrote.

        Raises:
            OptionError: unknown names or values.
        """
        parts: dict[str, Any] = {
            "sampling": Sampling,
            "clips": ClipWindows,
            "decode": DecodeOptions,
            "encode": EncodeOptions,
            "shards": ShardOptions,
        }
        values = dict(values)
        try:
            for name, made in parts.items():
                if isinstance(values.get(name), dict):
                    values[name] = made(**values[name])
            values["retry"] = tuple(values.get("retry", ()))
            return cls(**values)
        except TypeError as error:
            raise OptionError(f"invalid options: {error}") from error
