"""
Find videos: files, folders, globs, lists, and folders of numbered images.

Order is natural (`clip2` before `clip10`) and the same every time. A video is known by its content:
a renamed or moved file is the same video, a changed one is another.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.errors import SourceError
from pipeline.records import Video
from pipeline.sources.image_sequence import IMAGE_SUFFIXES, image_files, natural_key
from pipeline.storage import printable, redact_url

LIST_SUFFIXES = frozenset({".csv", ".parquet", ".txt"})
SIDECARS = frozenset(
    [
        ".csv",
        ".tsv",
        ".txt",
        ".json",
        ".jsonl",
        ".yaml",
        ".yml",
        ".toml",
        ".xml",
        ".html",
        ".htm",
        ".md",
        ".rst",
        ".log",
        ".ini",
        ".cfg",
        ".parquet",
        ".npy",
        ".npz",
        ".pkl",
        ".pt",
        ".pth",
        ".safetensors",
        ".onnx",
        ".zip",
        ".tar",
        ".gz",
        ".tgz",
        ".bz2",
        ".xz",
        ".7z",
        ".pdf",
        ".doc",
        ".docx",
        ".py",
        ".ipynb",
        ".sh",
        ".srt",
        ".vtt",
        ".ass",
        ".ssa",
        ".sub",
        ".nfo",
        ".wav",
        ".mp3",
        ".flac",
        ".aac",
        ".m4a",
        ".ogg",
        ".opus",
        ".db",
        ".sqlite",
        ".lock",
        ".m3u",
        ".m3u8",
        ".mpd",
        ".part",
        ".tmp",
        ".crdownload",
    ]
)
"""Files that lie beside videos; left out of a folder unless their content is that of a video."""
LIST_COLUMNS = ("video", "path", "file", "filename")
BLOCK_BYTES = 64 << 10
MIDDLE_BLOCKS = 6
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A source before its content was looked at."""

    path: str
    location: str
    kind: Literal["file", "images"]


def find_videos(
    sources: Sequence[str],
    *,
    image_fps: float | None = None,
    full_hash: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Video]:
    """
    Find every video that the sources name, once each, in natural order.

    Args:
        sources: files, folders, globs, and lists (.csv, .parquet, .txt).
        image_fps: images a second of image sequences.
        full_hash: fingerprint whole files instead of blocks of them.
        progress: told how many of how many files were fingerprinted.

    Raises:
        SourceError: a source that is not there, a folder or list without videos, or an image
            sequence without `image_fps`.
    """
    if not sources:
        raise SourceError("no videos given: name files, folders, globs, or a list")
    found: dict[str, Found] = {}
    for source in sources:
        for item in _expand(source):
            found.setdefault(item.location, item)
    _check_image_rate(found.values(), image_fps)
    with ThreadPoolExecutor(8) as threads:
        videos = []
        items = list(found.values())
        for video in threads.map(lambda item: identify(item, image_fps, full_hash), items):
            videos.append(video)
            progress(len(videos), len(items))
    return _joined_by_content(videos)


def _joined_by_content(videos: list[Video]) -> list[Video]:
    """Let the first of several files with the same content stand for all of them."""
    first: dict[str, Video] = {}
    copies: dict[str, list[tuple[str, str]]] = {}
    for video in videos:
        if first.setdefault(video.video_id, video) is not video:
            copies.setdefault(video.video_id, []).append((video.path, video.location))
    return [
        replace(video, copies=tuple(copies.get(video_id, ()))) for video_id, video in first.items()
    ]


def _check_image_rate(found: Iterable[Found], image_fps: float | None) -> None:
    if image_fps is not None:
        return
    sequence = next((item for item in found if item.kind == "images"), None)
    if sequence:
        raise SourceError(
            f"{sequence.path} is an image sequence: its frame rate is not in the files, "
            "give it with --image-fps"
        )


def absolute(source: str) -> str:
    """Make a source independent of the working directory."""
    return os.path.abspath(os.path.expanduser(source))


def _expand(source: str) -> Iterator[Found]:
    if not source:
        raise SourceError("the name of a source is empty")
    if "://" in source:
        shown = printable(redact_url(source))
        raise SourceError(f"{shown} is a URL: fetch it first, sources are files")
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        found = list(_in_folder(path))
        if not found:
            raise SourceError(f"{printable(path)} holds no videos")
        yield from found
    elif os.path.lexists(path):
        if path.suffix.lower() in LIST_SUFFIXES and not _looks_like_video(path):
            yield from _in_list(path)
        else:
            yield _file(path)
    elif glob.has_magic(source):
        found = list(_in_glob(os.path.expanduser(source)))
        if not found:
            raise SourceError(f"no file matches {printable(source)}")
        yield from found
    else:
        raise SourceError(f"no such file or folder: {printable(path)}")


def _in_glob(pattern: str) -> Iterator[Found]:
    """Give the files that match. A folder that matches speaks for all that is in it."""
    matches = {Path(match) for match in glob.glob(pattern, recursive=True)}
    folders = {path for path in matches if os.path.isdir(path)}
    for path in sorted(matches, key=lambda path: natural_key(str(path))):
        if folders.isdisjoint(path.parents):
            yield from _in_folder(path) if path in folders else [_file(path)]


def _file(path: Path) -> Found:
    return Found(printable(path), os.path.abspath(path), "file")


def in_folder(folder: Path) -> list[Found]:
    """List the videos and image sequences of a folder, in natural order, without opening them."""
    return list(_in_folder(folder))


def _in_folder(folder: Path) -> Iterator[Found]:
    """Walk a folder in natural order. Links are followed, each real folder is entered once."""
    if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
        raise SourceError(f"{printable(folder)} cannot be read: {os.strerror(errno.EACCES)}")
    seen: set[tuple[int, int]] = set()
    entered: list[Iterator[Found | Path]] = [iter([folder])]  # folders may be nested by thousands
    while entered:
        entry = next(entered[-1], None)
        if entry is None:
            entered.pop()
        elif isinstance(entry, Found):
            yield entry
        else:
            entered.append(iter(_entries(entry, seen)))


def _entries(folder: Path, seen: set[tuple[int, int]]) -> list[Found | Path]:
    """List the videos of a folder, and the folders in it, in natural order."""
    try:
        status = folder.stat()
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return [_file(folder)]  # it gets a row that says so: nobody knows what is lost with it
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    paths.sort(key=lambda path: natural_key(path.name))
    folders = {path for path in paths if os.path.isdir(path)}
    videos = {path for path in paths if path not in folders and _may_be_video(path)}
    if _is_image_sequence(videos):
        sequence = Found(printable(folder), os.path.abspath(folder), "images")
        return [sequence, *(path for path in paths if path in folders)]
    found = (path if path in folders else _file(path) for path in paths if path in folders | videos)
    return list(found)


def _is_image_sequence(files: set[Path]) -> bool:
    """Tell a folder of images only from one in which images lie beside videos."""
    return len(files) > 1 and all(path.suffix.lower() in IMAGE_SUFFIXES for path in files)


def _may_be_video(path: Path) -> bool:
    if path.suffix.lower() in SIDECARS:
        return _looks_like_video(path)
    try:
        return not stat.S_ISFIFO(path.stat().st_mode) and not stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return True  # a broken link: it gets a row that says so


def _looks_like_video(path: Path) -> bool:
    """Look at the first bytes for the marks of common video containers."""
    if not os.path.isfile(path):
        return False  # opening a pipe would wait for whoever writes to it
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return (
        (head[4:8] in (b"ftyp", b"moov", b"mdat") and head[8:11] != b"M4A")
        or head[:4] in (b"\x1aE\xdf\xa3", b"FLV\x01", b"0&\xb2u", b"\x00\x00\x01\xba")
        or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
    )


def read_list(path: Path) -> pd.DataFrame:
    """
    Read a list of videos: CSV or Parquet with a column `video`, or text with one path a line.

    Returns:
        The table; its column `video` is the first of `video`, `path`, `file`, `filename`.

    Raises:
        SourceError: the list cannot be read, has no such column, or is empty.
    """
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix.lower() == ".csv":
            # names of digits are still names: 0007 is not 7
            table = pd.read_csv(path, skipinitialspace=True, dtype=dict.fromkeys(LIST_COLUMNS, str))
        else:
            # as objects: pandas' own strings cannot hold undecodable names
            table = pd.DataFrame({"video": _lines(path)}, dtype=object)
    except (OSError, ValueError) as error:
        raise SourceError(f"the list {printable(path)} cannot be read: {error}") from error
    column = next((name for name in LIST_COLUMNS if name in table.columns), None)
    if column is None:
        raise SourceError(
            f"the list {printable(path)} has no column `video`, only: "
            f"{', '.join(map(str, table.columns)) or 'nothing'}"
        )
    table = table.rename(columns={column: "video"}).dropna(subset=["video"])
    if table.empty:
        raise SourceError(f"the list {printable(path)} names no videos")
    return table


def _lines(path: Path) -> list[str]:
    text = path.read_text("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise ValueError("it is no text in UTF-8")
    return [line for line in text.splitlines() if line.strip()]


def _in_list(path: Path) -> Iterator[Found]:
    folder = path.resolve().parent
    for name in map(redact_url, map(str, read_list(path)["video"])):
        location = os.path.abspath(folder / os.path.expanduser(name))
        kind: Literal["file", "images"] = "images" if os.path.isdir(location) else "file"
        yield Found(printable(name), location, kind)


def identify(found: Found, image_fps: float | None, full_hash: bool = False) -> Video:
    """Fingerprint a source. One that cannot be read becomes a video that says why."""
    try:
        if found.kind == "images":
            assert image_fps is not None
            files = image_files(found.location)
            size = sum(path.stat().st_size for path in files)
            video_id = _fingerprint_images(files, image_fps, full_hash)
            return Video(found.path, found.location, "images", video_id, size, image_fps)
        video_id, size = _fingerprint_file(found.location, full_hash)
        return Video(found.path, found.location, "file", video_id, size)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        failure = ("missing" if missing else "unreadable", f"{error.strerror}: {found.path}")
        # no content to know it by: its place stands in
        video_id = _hash([b"unread", os.fsencode(found.location)])
        return Video(found.path, found.location, found.kind, video_id, 0, None, failure)


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _fingerprint_file(location: str, full: bool) -> tuple[str, int]:
    # not to hang on a pipe or a device that somebody put into the folder
    descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        return _hash(_blocks(file.fileno(), status.st_size, full)), status.st_size


def _blocks(descriptor: int, size: int, full: bool) -> Iterator[bytes]:
    """Give the size, then the whole of a small file, or head, tail and blocks between."""
    yield size.to_bytes(8, "little")
    if full:
        yield b"full"
    if full or size <= (MIDDLE_BLOCKS + 2) * BLOCK_BYTES:
        for start in range(0, size, 1 << 20):
            yield os.pread(descriptor, 1 << 20, start)
        return
    step = (size - BLOCK_BYTES) / (MIDDLE_BLOCKS + 1)
    for number in range(MIDDLE_BLOCKS + 2):
        yield os.pread(descriptor, BLOCK_BYTES, round(number * step))


def _fingerprint_images(files: list[Path], fps: float, full: bool) -> str:
    # times depend on the rate and on the numbers, so they are part of what the video is
    parts: list[bytes] = [b"images", repr(float(fps)).encode()]
    for path in files:
        parts += [os.fsencode(path.name), _fingerprint_file(str(path), full)[0].encode()]
    return _hash(parts)
