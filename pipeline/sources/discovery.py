"""
Find videos: files, folders, globs, lists, and folders of numbered images.

The order is natural (`clip2` before `clip10`) and deterministic.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.records import Video
from pipeline.sources.file_kinds import (
    describe_others,
    is_other_file,
    looks_like_video,
    may_be_video,
)
from pipeline.sources.fingerprint import Source, identify
from pipeline.sources.image_sequence import IMAGE_SUFFIXES, natural_key
from pipeline.sources.pictures import is_stack
from pipeline.sources.table_values import file_name, file_path
from pipeline.sources.tables import SPREADSHEET_SUFFIXES, normalized_name, read_table, read_text
from pipeline.storage import printable, redact_url

LIST_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".txt"}) | SPREADSHEET_SUFFIXES
"""Of spreadsheets, too: reading them says how to save them as a list."""
LIST_COLUMNS = ("video", "path", "file", "filename")
"""Columns of a list that may name the videos; the first one present is used."""
Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Search:
    """How folders are walked, and what was left out."""

    strict: bool = False
    """Treat all files as videos that are not known to accompany videos."""
    left_out: list[Path] = field(default_factory=list)
    """Files of other programs."""


def find_videos(
    sources: Sequence[str],
    *,
    image_fps: float | None = None,
    full_hash: bool = False,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> list[Video]:
    """
    Find every video that the sources name, once each, in natural order.

    Args:
        sources: files, folders, globs, and lists (.csv, .tsv, .parquet, .txt).
        image_fps: frame rate of image sequences.
        full_hash: fingerprint whole files instead of some blocks of them.
        strict: treat files of other programs in folders as videos, instead of leaving them out.
        progress: called with the number of fingerprinted files, and of all files.

    Raises:
        SourceError: a source that does not exist, a folder or list without videos, or an image
            sequence without `image_fps`.
    """
    if not sources:
        raise SourceError("no videos given: name files, folders, globs, or a list")
    found: dict[str, Source] = {}
    search = Search(strict)
    for source in sources:
        for item in _expand(source, search):
            found.setdefault(item.location, item)
    if search.left_out:
        others = list(dict.fromkeys(search.left_out))
        logger.warning("%s; --strict gives each a row", describe_others(others))
    _check_image_rate(found.values(), image_fps)
    with ThreadPoolExecutor(8) as threads:
        videos = []
        items = list(found.values())
        for video in threads.map(lambda item: identify(item, image_fps, full_hash), items):
            videos.append(video)
            progress(len(videos), len(items))
    return _merge_copies(videos)


def _merge_copies(videos: list[Video]) -> list[Video]:
    """Keep the first of several files with the same content, with the others as its copies."""
    first: dict[str, Video] = {}
    copies: dict[str, list[tuple[str, str]]] = {}
    for video in videos:
        if first.setdefault(video.video_id, video) is not video:
            copies.setdefault(video.video_id, []).append((video.path, video.location))
    return [
        replace(video, copies=tuple(copies.get(video_id, ()))) for video_id, video in first.items()
    ]


def _check_image_rate(found: Iterable[Source], image_fps: float | None) -> None:
    if image_fps is not None:
        return
    sequence = next((item for item in found if item.kind == "images"), None)
    if sequence:
        raise SourceError(
            f"{sequence.path} is an image sequence: its frame rate is not in the files, "
            "give it with --image-fps"
        )


def absolute(source: str) -> str:
    """Return the absolute path of a source, with `~` expanded."""
    return os.path.abspath(os.path.expanduser(source))


def _expand(source: str, search: Search) -> Iterator[Source]:
    if not source:
        raise SourceError("the name of a source is empty")
    if "://" in source:
        shown = printable(redact_url(source))
        raise SourceError(f"{shown} is a URL: fetch it first, sources are files")
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        found = list(_in_folder(path, search))
        if not found:
            raise SourceError(f"{printable(path)} holds no videos{_left_out_there(search)}")
        yield from found
    elif os.path.lexists(path):
        if path.suffix.lower() in LIST_SUFFIXES and not looks_like_video(path):
            yield from _in_list(path, search)
        else:
            yield _file(path)
    elif glob.has_magic(source):
        found = list(_in_glob(os.path.expanduser(source), search))
        if not found:
            raise SourceError(f"no file matches {printable(source)}")
        yield from found
    else:
        raise SourceError(f"no such file or folder: {printable(path)}")


def _left_out_there(search: Search) -> str:
    return f"; {describe_others(search.left_out)}" if search.left_out else ""


def _in_glob(pattern: str, search: Search) -> Iterator[Source]:
    """Yield the files that match. A folder that matches is walked, matches inside it are not."""
    matches = {Path(match) for match in glob.glob(pattern, recursive=True)}
    folders = {path for path in matches if os.path.isdir(path)}
    for path in sorted(matches, key=lambda path: natural_key(str(path))):
        if folders.isdisjoint(path.parents):
            yield from _in_folder(path, search) if path in folders else [_file(path)]


def _file(path: Path) -> Source:
    return Source(printable(path), os.path.abspath(path), "images" if is_stack(path) else "file")


def in_folder(folder: Path, search: Search | None = None) -> list[Source]:
    """List the videos and image sequences of a folder, in natural order, without decoding them."""
    return list(_in_folder(folder, search or Search()))


def directly_in_folder(folder: Path) -> list[Source]:
    """List the videos and image sequences of a folder that are in none of its folders."""
    return [entry for entry in _entries(folder, set(), Search()) if isinstance(entry, Source)]


def _in_folder(folder: Path, search: Search) -> Iterator[Source]:
    """Walk a folder in natural order. Links are followed; each real folder is entered once."""
    if not _may_be_listed(folder):
        raise SourceError(f"{printable(folder)} cannot be read: {os.strerror(errno.EACCES)}")
    seen: set[tuple[int, int]] = set()
    # a stack instead of recursion: folders may be nested by thousands
    entered: list[Iterator[Source | Path]] = [iter([folder])]
    while entered:
        entry = next(entered[-1], None)
        if entry is None:
            entered.pop()
        elif isinstance(entry, Source):
            yield entry
        else:
            entered.append(iter(_entries(entry, seen, search)))


def _may_be_listed(folder: str | Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK, effective_ids=True)


def _entries(folder: Path, seen: set[tuple[int, int]], search: Search) -> list[Source | Path]:
    """List the videos of a folder, and the folders in it, in natural order."""
    try:
        status = folder.stat()
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return [_file(folder)]  # gets a row with an error: its content is unknown
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    paths.sort(key=lambda path: natural_key(path.name))
    folders = {path for path in paths if os.path.isdir(path)}
    files = [path for path in paths if path not in folders]
    videos = {path for path in files if may_be_video(path, strict=search.strict)}
    search.left_out.extend(path for path in files if path not in videos and is_other_file(path))
    if _is_image_sequence(videos):
        sequence = Source(printable(folder), os.path.abspath(folder), "images")
        return [sequence, *(path for path in paths if path in folders)]
    found = (path if path in folders else _file(path) for path in paths if path in folders | videos)
    return list(found)


def _is_image_sequence(files: set[Path]) -> bool:
    """Whether a folder holds only images, two or more; images beside videos are no sequence."""
    return len(files) > 1 and all(path.suffix.lower() in IMAGE_SUFFIXES for path in files)


def read_list(path: Path) -> list[str]:
    """
    Read a list of videos: a table with a column `video`, or text with one path per line.

    The column may also be named `path`, `file` or `filename`.

    Returns:
        The names, as their files are on disk; at least one.

    Raises:
        SourceError: the list cannot be read, has no such column, or is empty.
    """
    folder = path.resolve().parent
    if path.suffix.lower() == ".txt":
        text, encoding = read_text(path)
        lines = re.split(r"\r\n|\r|\n", text)
        if not _is_header(next(filter(str.strip, lines), "")):
            names = [file_name(line, folder, encoding) for line in lines if line.strip()]
            return _require_names(names, path)
    table = read_table(path, LIST_COLUMNS)
    table.problems.raise_if_any()
    column = next((name for name in LIST_COLUMNS if name in table.columns), None)
    if column is None:
        raise SourceError(
            f"the list {printable(path)} has no column `video`, only: "
            f"{', '.join(table.columns) or 'nothing'}; its first line must name the columns"
        )
    names = [table.file_name(row, column, folder) for row in table.rows if row[column]]
    return _require_names(names, path)


def _is_header(line: str) -> bool:
    """Whether a line is the header of a table of several columns, saved as text by Excel."""
    cells = line.split("\t")
    return len(cells) > 1 and any(normalized_name(cell) in LIST_COLUMNS for cell in cells)


def _require_names(names: list[str], path: Path) -> list[str]:
    if not names:
        raise SourceError(f"the list {printable(path)} names no videos")
    return names


def _in_list(path: Path, search: Search) -> Iterator[Source]:
    folder = path.resolve().parent
    for name in read_list(path):
        location = file_path(name, folder)
        if os.path.isdir(location):
            yield from _in_listed_folder(name, location, search)
        else:
            yield Source(printable(redact_url(name)), location, "file")


def _in_listed_folder(name: str, location: str, search: Search) -> Iterator[Source]:
    """Walk a folder that a list names; its videos are shown relative to the list as well."""
    found = list(_in_folder(Path(location), search)) if _may_be_listed(location) else []
    for source in found:
        inside = os.path.relpath(source.location, location)
        shown = name if inside == "." else os.path.join(name, inside)
        yield replace(source, path=printable(shown))
    if not found:  # gets a row with an error
        yield Source(printable(name), location, "file")
