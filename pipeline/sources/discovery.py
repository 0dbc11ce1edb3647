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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.records import Video
from pipeline.sources.file_kinds import (
    describe_others,
    describe_stills,
    is_other_file,
    looks_like_video,
    may_be_video,
)
from pipeline.sources.fingerprint import Source, identify
from pipeline.sources.folder_content import arrange, complete_sequences, file_source
from pipeline.sources.image_sequence import IMAGE_SUFFIXES, image_files
from pipeline.sources.sequences import natural_key
from pipeline.sources.table_values import file_name, file_path
from pipeline.sources.tables import SPREADSHEET_SUFFIXES, normalized_name, read_table, read_text
from pipeline.storage import printable, redact_url

LIST_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".txt"}) | SPREADSHEET_SUFFIXES
"""Of spreadsheets, too: reading them says how to save them as a list."""
LIST_COLUMNS = ("video", "path", "file", "filename", "file_name")
"""Columns of a list that may name the videos; the first one present is used."""
SHOWN_SEQUENCES = 3
"""Named in a message."""
Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Search:
    """How folders are walked, and what was left out."""

    strict: bool = False
    """Treat all files as videos that are not known to accompany videos."""
    left_out: list[Path] = field(default_factory=list)
    """Files of other programs."""
    stills: list[Path] = field(default_factory=list)
    """Still pictures beside videos."""


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
    _tell_left_out(search)
    found = _with_image_rate(found, image_fps)
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


def _tell_left_out(search: Search) -> None:
    if search.left_out:
        others = list(dict.fromkeys(search.left_out))
        logger.warning("%s; --strict gives each a row", describe_others(others))
    if search.stills:
        stills = describe_stills(list(dict.fromkeys(search.stills)))
        logger.warning("%s; --strict gives each a row", stills)


def _with_image_rate(found: dict[str, Source], image_fps: float | None) -> dict[str, Source]:
    """Require a frame rate of image sequences; without one, leave out those beside videos."""
    sequences = [source for source in found.values() if source.kind == "images"]
    if image_fps is not None or not sequences:
        return found
    required = next((source for source in sequences if not source.beside_videos), None)
    if required:
        raise SourceError(
            f"{required.path} is an image sequence: its frame rate is not in the files, "
            "give it with --image-fps"
        )
    logger.warning(
        "image sequences beside videos left out (%s%s): give their frame rate with --image-fps",
        ", ".join(source.path for source in sequences[:SHOWN_SEQUENCES]),
        ", …" * (len(sequences) > SHOWN_SEQUENCES),
    )
    return {place: source for place, source in found.items() if source.kind != "images"}


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
            yield file_source(path)
    elif glob.has_magic(source):
        found = list(_in_glob(os.path.expanduser(source), search)) or _named_sequence(path)
        if not found:
            raise SourceError(f"no file matches {printable(source)}")
        yield from found
    else:
        raise SourceError(f"no such file or folder: {printable(path)}")


def _left_out_there(search: Search) -> str:
    return f"; {describe_others(search.left_out)}" if search.left_out else ""


def _named_sequence(path: Path) -> list[Source]:
    """Return the image sequence of this name, in a folder whose name a glob cannot match."""
    try:
        image_files(path)
    except OSError:
        return []
    return [Source(printable(path), os.path.abspath(path), "images")]


def _in_glob(pattern: str, search: Search) -> Iterator[Source]:
    """Yield the files that match. A folder that matches is walked, matches inside it are not."""
    matches = {Path(match) for match in glob.glob(pattern, recursive=True)}
    folders = {path for path in matches if os.path.isdir(path)}
    sequences: dict[Path, Source] = {}
    images = (path for path in matches - folders if path.suffix.lower() in IMAGE_SUFFIXES)
    for folder in {path.parent for path in images}:
        sequences |= complete_sequences(folder, matches)
    for path in sorted(matches, key=lambda path: natural_key(str(path))):
        if not folders.isdisjoint(path.parents):
            continue
        if path in folders:
            yield from _in_folder(path, search)
        else:
            yield sequences.get(path) or file_source(path)


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
        return [file_source(folder)]  # gets a row with an error: its content is unknown
    if (status.st_dev, status.st_ino) in seen:
        return []
    seen.add((status.st_dev, status.st_ino))
    paths.sort(key=lambda path: natural_key(path.name))
    folders = {path for path in paths if os.path.isdir(path)}
    files = [path for path in paths if path not in folders]
    videos = {path for path in files if may_be_video(path, strict=search.strict)}
    search.left_out.extend(path for path in files if path not in videos and is_other_file(path))
    content = arrange(folder, [path for path in files if path in videos])
    sources = {**content.sources}
    if search.strict:
        sources |= {path: file_source(path) for path in content.stills}
    else:
        search.stills.extend(content.stills)
    whole = [source for source in sources.values() if source.location == os.path.abspath(folder)]
    found = (path if path in folders else sources.get(path) for path in paths)
    return [*whole, *(entry for entry in found if entry is not None and entry not in whole)]


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
