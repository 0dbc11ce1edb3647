"""Find and drop the rows of files that were deleted after their run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.results.schemas import COMMIT_TABLE, SCHEMAS
from pipeline.results.tables import FinishedVideo, finished_videos, part_paths
from pipeline.sources.image_sequence import source_exists
from pipeline.storage import read_table, write_table

Key = tuple[str, str]
"""Id and name of a video: a file, as all tables name it."""


def file_exists(path: str) -> bool:
    """Whether a file of the column `path` exists; bytes that are not UTF-8 are escaped there."""
    raw = re.sub(
        rb"\\x([89a-f][0-9a-f])", lambda hex: bytes.fromhex(hex[1].decode()), path.encode()
    )
    return source_exists(path) or source_exists(os.fsdecode(raw))


def deleted_files(rows: Iterable[FinishedVideo]) -> list[FinishedVideo]:
    """Select the rows whose file is gone; files that were missing during the run are none."""
    return [row for row in rows if row.status != "missing" and not file_exists(row.path)]


def config_ids(out: Path) -> list[str]:
    """List the configurations that a results folder has rows of."""
    names = [path.name.split("-") for path in (out / COMMIT_TABLE).glob("part-*-*.parquet")]
    return sorted({parts[1] for parts in names})


def find_deleted(out: Path) -> tuple[dict[str, list[FinishedVideo]], int]:
    """
    Find the rows of deleted files in a results folder, which the caller has locked.

    Returns:
        Rows of `videos` by configuration; and the number of rows of files that exist.
    """
    found, others = {}, 0
    for config_id in config_ids(out):
        rows = [row for row in finished_videos(out, config_id) if row.status != "missing"]
        deleted = deleted_files(rows)
        others += len(rows) - len(deleted)
        if deleted:
            found[config_id] = deleted
    return found, others


def drop_deleted(out: Path, config_id: str, deleted: Iterable[FinishedVideo]) -> None:
    """
    Delete the rows of some files from every table; those of their copies stay.

    Args:
        out: results folder, which the caller has locked.
        config_id: only rows of this configuration.
        deleted: from `find_deleted`.
    """
    keys = {(row.video_id, row.video) for row in deleted}
    for part in part_paths(out, COMMIT_TABLE, config_id):
        rows = read_table(part)
        if not pc.any(_matches(rows, keys)).as_py():
            continue
        # `videos` last: after a crash between two files, the next call deletes the rest
        for name in sorted(SCHEMAS, key=lambda name: name == COMMIT_TABLE):
            path = out / name / part.name
            if path.exists():
                rows = read_table(path)
                rows = rows.filter(pc.invert(_matches(rows, keys)))
                write_table(_with_new_originals(rows, keys), path)


def _matches(rows: pa.Table, keys: set[Key]) -> pa.ChunkedArray:
    """Tell for each row whether it is of one of the files."""
    joined = pc.binary_join_element_wise(rows["video_id"], rows["video"], "\0")
    return pc.is_in(joined, pa.array(["\0".join(key) for key in keys], pa.string()))


def _with_new_originals(rows: pa.Table, keys: set[Key]) -> pa.Table:
    """Make the first of the copies of a deleted file the one whose copies the others are."""
    if "copy_of" not in rows.column_names:
        return rows
    originals: dict[str, str] = {}
    copy_of = []
    for row in rows.select(["video_id", "video", "copy_of"]).to_pylist():
        video_id, original = row["video_id"], row["copy_of"]
        if original is not None and (video_id, original) in keys:
            original = originals.get(video_id)
            originals.setdefault(video_id, row["video"])
        copy_of.append(original)
    index = rows.schema.get_field_index("copy_of")
    field = rows.schema.field(index)
    return rows.set_column(index, field, pa.array(copy_of, field.type))
