"""
Options of a run: one frozen class per stage, validated when constructed.

The command line is derived from these classes: the default of a field is the default of its option,
and the first paragraph of the docstring below the field the help text.
`fingerprint` hashes options identically on every machine. Only options that change results are part
of the id of a result; batch sizes, worker counts and timeouts are not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from pipeline.errors import OptionError
from pipeline.machine import available_cpus

ReaderName = Literal["auto", "decord", "opencv", "pyav"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Fit = Literal["short", "squash"]
ShotMode = Literal["auto", "off"]


OMIT_DEFAULT: Mapping[str, bool] = MappingProxyType({"omit default from fingerprint": True})
"""Metadata of a field that was added later: at its default it is left out of fingerprints, so that
files of earlier versions keep their ids."""


def fingerprint(*parts: Any) -> str:
    """
    Hash options and plain values into 16 hex digits, the same on every machine.

    Dataclasses are hashed by class name and fields, everything else as JSON. Fields with the
    metadata `OMIT_DEFAULT` are left out where they have their default.
    """
    text = json.dumps(parts, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.metadata != OMIT_DEFAULT or getattr(value, field.name) != field.default
        }
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


def resolve_device(device: Device) -> Literal["cpu", "cuda"]:
    """
    Return the device to compute on: for `auto`, CUDA if torch has a CUDA device.

    Raises:
        OptionError: CUDA is requested, and torch has no CUDA device.
    """
    import torch  # decode processes read options too, and must not load torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise OptionError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    if device == "auto":
        return "cuda" if available else "cpu"
    return device


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
    """Sampled frames per second of video: sample k is the frame displayed at k / fps seconds."""
    every: int | None = None
    """Sample every n-th frame instead; 1 samples all frames."""

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


DEFAULT_SAMPLING = Sampling(fps=8.0)
"""Sampling of a run without a recognizer."""


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
    """Decoding library to try first; auto chooses by the file."""
    workers: int = 0
    """Number of decode processes; 0 starts one per CPU core."""
    frame_timeout_seconds: float = 20.0
    """Seconds without a new frame after which a decoder is killed."""
    video_timeout_seconds: float = 900.0
    """Maximum seconds for one attempt to decode a file, or 30,000 frames of a longer one."""
    max_pixels: int = 200_000_000
    """Maximum pixels per frame; larger videos are refused."""
    max_video_seconds: float = 48 * 3600.0
    """Maximum duration in seconds; longer videos are refused."""
    memory_bytes: int = 4 << 30
    """Maximum memory of one decode process."""

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
            raise OptionError(f"workers must be 0 (one per core) or more, got {self.workers}")

    @property
    def num_workers(self) -> int:
        """Decode processes to run."""
        return self.workers or available_cpus()


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Where and how exactly the encoder runs."""

    device: Device = "auto"
    """Where networks run; auto is CUDA where available, else the CPU."""
    precision: Precision = "auto"
    """Floating-point type of the backbone (float16 needs CUDA); auto uses a reduced one only where
    its features equal those of float32."""
    batch_size: int = 0
    """Frames per batch; 0 measures the fastest once and stores it."""

    def __post_init__(self) -> None:
        require_one_of(Device, device=self.device)
        require_one_of(Precision, precision=self.precision)
        if self.batch_size < 0:
            raise OptionError(f"batch_size must be 0 (automatic) or more, got {self.batch_size}")


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """How a video is cut into clips. Clips never straddle a shot cut that the recognizer finds."""

    seconds: float | None = None
    """Length of clips in seconds.

    None: one clip for each shot."""
    stride_seconds: float | None = None
    """Seconds from the start of a clip to that of the next, by default the length of a clip."""

    def __post_init__(self) -> None:
        require_positive(clip_seconds=self.seconds, stride_seconds=self.stride_seconds)
        if self.seconds is None and self.stride_seconds is not None:
            raise OptionError("stride_seconds needs clip_seconds: whole videos have no stride")
        _as_numbers(self, float, "seconds", "stride_seconds")


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """How work is cut. Changes speed and memory, never a row."""

    max_frames: int = 4096
    """Maximum sampled frames per shard; more frames reduce the overhead per shard."""
    max_bytes: int = 384 << 20
    """Maximum bytes of decoded frames per shard, before they are encoded."""
    max_videos: int = 256
    """Maximum videos per shard."""
    window: int = 0
    """Shards in flight: while one is encoded, the others are decoded; 0 chooses by the number of
    decode processes and the memory."""

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
    """All options of a run except its sources and the results folder."""

    recognizer: str | None = "camera-motion"
    """A bundled recognizer, or the folder of a saved one.

    None: only fill the feature store."""
    backbone: str | None = None
    """Model name in timm, local-dir:PATH of a downloaded one, or random:NAME for random weights.

    With a recognizer: where its backbone is found, if not under its saved name."""
    weights: str | None = None
    """Safetensors file with the weights of the backbone."""
    tap: str | None = None
    """Module of the backbone whose output is used, such as blocks.4."""
    grid: int | None = None
    """Pool feature maps to GRID × GRID cells, which keeps positions; 1 is global pooling."""
    sampling: Sampling | None = None
    """Which frames are used; None uses the sampling of the recognizer."""
    clips: ClipWindows | None = None
    """How videos are cut into clips; None uses the windows of the recognizer."""
    frames: bool = False
    """Also write one row per sampled frame."""
    embeddings: bool = False
    """Also write the pooled hidden state of each clip."""
    shots: ShotMode = "off"
    """auto: find shots in all decoded frames; no clip or segment contains a shot boundary."""
    novelty: str | None = None
    """Folder of a novelty model: also score how unusual clips are, and with --frames frames."""
    features: str | None = None
    """Folder of the feature store."""
    image_fps: float | None = None
    """Frame rate of image sequences, in images per second; required for them. Also that of raw
    streams that state none, such as .mjpeg."""
    full_hash: bool = False
    """Fingerprint whole files instead of blocks at their start, middle and end."""
    strict: bool = False
    """Give every file in a folder a row, instead of leaving out files of other programs."""
    retry: tuple[str, ...] = ()
    """Statuses whose videos are processed again."""
    wait: bool = False
    """Wait for another run on the same results folder to end, instead of failing."""
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    """How videos are decoded."""
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    """How frames are encoded."""
    shards: ShardOptions = field(default_factory=ShardOptions)
    """How videos are grouped into shards."""

    def __post_init__(self) -> None:
        if self.recognizer is None and self.backbone is None:
            raise OptionError("without a recognizer, a backbone is required (--backbone)")
        if self.recognizer is None and self.sampling is None:
            raise OptionError("without a recognizer, the sampling is required (--sample-fps)")
        if self.recognizer is None and self.novelty is not None:
            raise OptionError("novelty scores need a recognizer (--recognizer)")
        require_positive(image_fps=self.image_fps, grid=self.grid)
        require_one_of(ShotMode, shots=self.shots)
        self._require_statuses()

    def _require_statuses(self) -> None:
        if not self.retry:
            return
        from pipeline.records import STATUSES  # imports numpy: help pages do without

        unknown = sorted(set(self.retry) - set(STATUSES))
        if unknown:
            raise OptionError(f"no status {', '.join(unknown)}; there are {', '.join(STATUSES)}")

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunOptions:
        """
        Read what `to_json` wrote.

        Raises:
            OptionError: a name is unknown or a value is invalid.
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
