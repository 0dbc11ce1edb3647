"""
Features that were made elsewhere: a folder with one file of features a video, in place of videos.

    NAME.npy   features (T, D), one row a frame
    NAME.npz   `features` (T, D), and if wanted `labels` (T,), the label of each frame

Many authors publish (D, T): where all files of a folder have as many rows and differ in their
columns, they are transposed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from pipeline.config import Sampling
from pipeline.errors import OptionError, SourceError
from pipeline.recognition.recognizer import EXTERNAL_FEATURES, BackboneSpec
from pipeline.records import DecodeReport, FrameFeatures, Integers, Video
from pipeline.sources.discovery import find_videos
from pipeline.storage import printable

SUFFIXES = (".npy", ".npz")
FEATURES, LABELS = "features", "labels"
"""Arrays of a file in NPZ format."""
MAX_VALUE = float(np.finfo(np.float16).max)
EPSILON_FRAMES = 1e-6


@dataclass(frozen=True)
class FeatureFiles:
    """
    Features of videos in files, read like those of a feature store.

    Args:
        folder: with a file a video.
        fps: rows of the files in a second of video.
        sampling: which rows are used.
    """

    folder: Path
    fps: float
    sampling: Sampling

    @cached_property
    def paths(self) -> dict[str, Path]:
        """
        Files by the names of the videos, sorted.

        Raises:
            SourceError: there are none, or several of one name.
        """
        return feature_files(self.folder)

    @cached_property
    def videos(self) -> tuple[Video, ...]:
        """The files as videos, identified by their content."""
        return tuple(find_videos([str(path) for path in self.paths.values()]))

    @cached_property
    def _by_id(self) -> Mapping[str, Path]:
        return {video.video_id: Path(video.location) for video in self.videos}

    @cached_property
    def _shapes(self) -> Mapping[Path, tuple[int, ...]]:
        """Shapes of the arrays in the files."""
        return {path: read_shape(path) for path in self.paths.values()}

    @cached_property
    def _transposed(self) -> bool:
        """Whether the files hold (D, T)."""
        rows, columns = ({shape[axis] for shape in self._shapes.values()} for axis in (0, 1))
        return len(rows) == 1 and len(columns) > 1

    @cached_property
    def backbone(self) -> BackboneSpec:
        """
        Describe the features for a recognizer.

        Raises:
            SourceError: files have different numbers of features a frame.
        """
        axis = 0 if self._transposed else 1
        sizes = {path.name: shape[axis] for path, shape in self._shapes.items()}
        if len(set(sizes.values())) > 1:
            raise SourceError(
                f"the files in {printable(self.folder)} must have equal numbers of features a "
                f"frame, got {', '.join(f'{name}: {size}' for name, size in sizes.items())}"
            )
        return BackboneSpec(EXTERNAL_FEATURES, "", next(iter(sizes.values())), precision="float32")

    def has(self, video_id: str) -> bool:
        """Whether a file has these features."""
        return video_id in self._by_id

    def reports(self, video_id: str) -> list[DecodeReport]:
        """Return a report as of a video that was decoded completely."""
        frames = self._shapes[self._by_id[video_id]][1 if self._transposed else 0]
        return [
            DecodeReport(
                "ok",
                duration_seconds=frames / self.fps,
                frame_rate=self.fps,
                frames_decoded=frames,
                frames_sampled=len(self.sampled(frames)),
            )
        ]

    def stream(self, video_id: str) -> Iterator[FrameFeatures]:
        """Read the sampled rows of a file, as one chunk."""
        values = self._read(video_id)
        rows = self.sampled(len(values))
        (report,) = self.reports(video_id)
        yield FrameFeatures(
            video_id=video_id,
            start=0,
            stop=len(rows),
            num_samples=len(rows),
            values=values[rows],
            sample_index=np.arange(len(rows)),
            frame_index=rows,
            pts_seconds=rows / self.fps,
            report=report,
        )

    def sampled(self, frames: int) -> Integers:
        """Give the rows that are used of a file with this many."""
        if self.sampling.every:
            return np.arange(0, frames, self.sampling.every)
        assert self.sampling.fps is not None
        step = self.fps / self.sampling.fps
        count = int(np.ceil(frames / step - EPSILON_FRAMES))
        rows: Integers = np.floor(np.arange(count) * step + EPSILON_FRAMES).astype(np.int64)
        return rows

    def _read(self, video_id: str) -> NDArray[np.float16]:
        path = self._by_id[video_id]
        values = read_features(path)
        return values.T if self._transposed else values


def open_feature_files(folder: Path, fps: float | None, sampling: Sampling | None) -> FeatureFiles:
    """
    Open a folder of features.

    Args:
        folder: with a file a video.
        fps: rows of the files in a second of video.
        sampling: which rows are used; None uses all.

    Raises:
        OptionError: the rate is missing, or lower than that of the sampling.
        SourceError: the folder has no features.
    """
    if fps is None:
        raise OptionError("--features-from needs the rate of the features: add --features-fps")
    sampling = sampling or Sampling(fps=fps)
    if sampling.fps and sampling.fps > fps * (1 + EPSILON_FRAMES):
        raise OptionError(
            f"{sampling.fps:g} frames a second cannot be sampled from features with {fps:g} a "
            "second: use a lower --sample-fps, or another --features-fps"
        )
    found = FeatureFiles(folder.expanduser(), fps, sampling)
    found.paths  # noqa: B018  raises early
    return found


def feature_files(folder: Path) -> dict[str, Path]:
    """
    Find the files of features in a folder, absolute paths by their names without suffix.

    Raises:
        SourceError: there are none, or several of one name.
    """
    if not folder.is_dir():
        raise SourceError(
            f"{printable(folder)} is no folder: name the folder of .npy or .npz files"
        )
    found: dict[str, Path] = {}
    for path in sorted(Path(os.path.abspath(folder)).iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise SourceError(
                f"{printable(path)} and {found[path.stem].name} have one name: keep one"
            )
        found[path.stem] = path
    if not found:
        raise SourceError(f"{printable(folder)} has no .npy or .npz file with features")
    return found


def read_shape(path: Path) -> tuple[int, ...]:
    """
    Read the shape of the features of a file, without the features.

    Raises:
        SourceError: the file is damaged, or holds no features of two dimensions.
    """
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                shape = _header_shape(file)
        else:
            with ZipFile(path) as archive, archive.open(f"{FEATURES}.npy") as file:
                shape = _header_shape(file)
    except KeyError:
        shape = ()
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise SourceError(f"{printable(path)} cannot be read: {error}") from error
    if len(shape) != 2:
        raise SourceError(
            f"{printable(path)} must hold features of shape (T, D); in .npz, the array must be "
            f"named {FEATURES}" + f"; got shape {shape}" * bool(shape)
        )
    return shape


def _header_shape(file: IO[bytes]) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0}
    shape, _, _ = read.get(version, np.lib.format.read_array_header_2_0)(file)
    return tuple(shape)


def read_features(path: Path) -> NDArray[np.float16]:
    """
    Read the features of a file, (T, D).

    Raises:
        SourceError: the file is damaged, or its values are no finite numbers in float16.
    """
    values = _read_array(path, FEATURES)
    if values is None or values.dtype.kind not in "fiu":
        raise SourceError(f"{printable(path)} must hold numbers")
    if not np.isfinite(values).all() or (values.size and np.abs(values).max() > MAX_VALUE):
        raise SourceError(
            f"{printable(path)} must hold finite numbers up to {MAX_VALUE:g} (they are used as "
            "float16): remove NaN and infinity, or scale them"
        )
    return values.astype(np.float16)


def read_label_array(path: Path) -> NDArray[Any] | None:
    """
    Read the labels of a file in NPZ format, (T,); None if it has none.

    Raises:
        SourceError: the file is damaged.
    """
    return _read_array(path, LABELS) if path.suffix.lower() == ".npz" else None


def _read_array(path: Path, name: str) -> NDArray[Any] | None:
    try:
        # no pickle: reading must not execute anything
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, NpzFile):
            return np.asarray(content)
        with content:
            return np.asarray(content[name]) if name in content else None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise SourceError(f"{printable(path)} cannot be read: {error}") from error
