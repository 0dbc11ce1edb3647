"""
Result tables in a folder: written atomically as Parquet, read back as pandas.

    OUT/clips  OUT/segments  OUT/frames  OUT/videos      part-<config_id>-<shard>.parquet
    OUT/run.json

Each shard has one file of the same name in every table. `videos` is written last: the shard is
finished once that file exists. A run deletes the files of unfinished shards when it starts. A
folder may hold rows of several configurations; `load` selects one by `config_id`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import fingerprint
from pipeline.encode.feature_store import FeatureStore, features_folder
from pipeline.errors import DamagedFileError, SourceError
from pipeline.records import DecodeReport
from pipeline.results.rows import RowOptions, VideoRows, build_tables
from pipeline.results.schemas import COMMIT_TABLE, SCHEMAS
from pipeline.storage import (
    file_lock,
    read_schema,
    read_table,
    remove_temporary_files,
    set_aside,
    write_json,
    write_table,
)

FEATURE_COLUMNS = ("video", "video_id", "sample_index", "frame_index", "pts_seconds", "feature")
"""Columns of the table `features` as `load` returns it."""

logger = logging.getLogger(__name__)


def write_rows(out: Path, rows: Sequence[VideoRows], options: RowOptions) -> int:
    """
    Write the rows of one shard: its part of every table, `videos` last.

    Returns:
        Number of clips written.
    """
    shard = fingerprint([[r.video.video_id, r.video.path] for r in rows])
    part = f"part-{options.config_id}-{shard}.parquet"
    tables = build_tables(rows, options)
    for name, table in tables.items():
        write_table(table, out / name / part)
    return len(tables["clips"])


def lock_results(out: Path, *, wait: bool = False) -> AbstractContextManager[None]:
    """Lock a results folder, so that one run at a time writes to it; see `storage.file_lock`."""
    return file_lock(out / ".lock", f"results folder {out}", wait=wait)


def delete_results(out: Path) -> None:
    """Delete what runs have written to a results folder, which the caller has locked."""
    for name in (*SCHEMAS, "features"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("run.json", "report.html"):
        (out / name).unlink(missing_ok=True)


def part_paths(out: Path, table: str, config_id: str) -> list[Path]:
    """List the files of a table that belong to a configuration, sorted by name."""
    return sorted((out / table).glob(f"part-{config_id}-*.parquet"))


def remove_incomplete(out: Path, options: RowOptions) -> int:
    """
    Remove temporary files, and the files of shards that lack a table or have a damaged one.

    Only footers are read; damaged pages are found when the rows are. Which tables another
    configuration writes is not known: its shards are complete if they have a file in `videos`.

    Returns:
        Number of files removed.
    """
    folders = [out, *(out / table for table in SCHEMAS), *(out / "features").glob("*")]
    removed = sum(map(remove_temporary_files, folders))
    for table in options.tables:
        for path in part_paths(out, table, options.config_id):
            try:
                read_schema(path)
            except DamagedFileError as error:
                removed += _remove_damaged_shard(out, error)
    complete = {path.name for path in (out / COMMIT_TABLE).glob("part-*.parquet")}
    own = {name for name in complete if name.startswith(f"part-{options.config_id}-")}
    for table in options.tables:
        complete -= own - {path.name for path in part_paths(out, table, options.config_id)}
    for table in SCHEMAS:
        for path in (out / table).glob("part-*.parquet"):
            if path.name not in complete:
                path.unlink()
                removed += 1
    return removed


def _remove_damaged_shard(out: Path, error: DamagedFileError) -> int:
    """
    Rename a damaged file and delete the other files of its shard: it is no longer finished.

    Returns:
        Number of files removed.
    """
    renamed = set_aside(error.path)
    logger.warning(
        "%s is damaged (%s) and was renamed to %s: "
        "its videos are processed again, by this run or the next one",
        error.path,
        error.detail,
        renamed.name,
    )
    others = [path for table in SCHEMAS if (path := out / table / error.path.name).exists()]
    for path in others:
        path.unlink()
    return 1 + len(others)


def read_shards(
    out: Path, config_id: str, columns: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, pa.Table]]:
    """
    Read the rows of each finished shard in turn, so that memory does not grow with their number.

    A shard with a damaged file is skipped and removed, with a warning: its videos are processed
    again. The caller holds the lock of the results folder.

    Args:
        out: results folder.
        config_id: only rows of this configuration.
        columns: names of columns by table.

    Yields:
        The selected columns, by table.
    """
    schemas = {table: _select_columns(table, names) for table, names in columns.items()}
    for part in part_paths(out, COMMIT_TABLE, config_id):
        tables = {}
        for table, schema in schemas.items():
            path = out / table / part.name
            try:
                tables[table] = read_table(path, schema) if path.exists() else schema.empty_table()
            except DamagedFileError as error:
                _remove_damaged_shard(out, error)
                break
        else:
            yield tables


def _select_columns(table: str, columns: Sequence[str] | None) -> pa.Schema:
    """
    Return the schema of some columns of a table, of all by default.

    Raises:
        SourceError: the table has no such column.
    """
    schema = SCHEMAS[table]
    _require_columns(table, columns or (), schema.names)
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def _require_columns(table: str, columns: Sequence[str], known: Sequence[str]) -> None:
    for name in columns:
        if name not in known:
            raise SourceError(f"no column {name!r} in {table}; there are {', '.join(known)}")


@dataclass(frozen=True, slots=True)
class FinishedVideo:
    """An existing row of `videos`."""

    video: str
    path: str
    video_id: str
    status: str


def finished_videos(out: Path, config_id: str) -> list[FinishedVideo]:
    """List the videos that were finished with a configuration."""
    columns = {COMMIT_TABLE: ["video", "path", "video_id", "status"]}
    return [
        FinishedVideo(**row)
        for shard in read_shards(out, config_id, columns)
        for row in shard[COMMIT_TABLE].to_pylist()
    ]


def read_reports(
    out: Path, config_id: str, before_version: int
) -> Iterator[tuple[str, DecodeReport]]:
    """Read video ids and decode reports from the rows of earlier versions of the decoding."""
    names = ["video_id", *DecodeReport.__dataclass_fields__]
    for shard in read_shards(out, config_id, {COMMIT_TABLE: names}):
        rows = shard[COMMIT_TABLE]
        # rows without a version are older than versions
        versions = pc.fill_null(rows["decoding_version"], 1)
        earlier = rows.set_column(
            rows.schema.get_field_index("decoding_version"), "decoding_version", versions
        ).filter(pc.less(versions, before_version))
        for row in earlier.to_pylist():
            attempts = (row.pop("attempts") or "").split("; ")
            yield row.pop("video_id"), DecodeReport.from_json({**row, "attempts": attempts})


def drop_rows(out: Path, config_id: str, video_ids: set[str]) -> int:
    """
    Delete the rows of some videos from every table.

    Args:
        out: results folder.
        config_id: only rows of this configuration.
        video_ids: videos whose rows are deleted.

    Returns:
        Number of rows of `videos` deleted.
    """
    ids = pa.array(video_ids, pa.string())
    dropped = 0
    for part in part_paths(out, COMMIT_TABLE, config_id):
        try:
            dropped += _drop_from_shard(out, part.name, ids)
        except DamagedFileError as error:
            _remove_damaged_shard(out, error)
    return dropped


def _drop_from_shard(out: Path, part: str, ids: pa.Array) -> int:
    """Delete rows from the files of one shard. Returns the number of rows of `videos` deleted."""
    commit = read_table(out / COMMIT_TABLE / part, _select_columns(COMMIT_TABLE, ["video_id"]))
    matches = pc.is_in(commit["video_id"], ids)
    if not pc.any(matches).as_py():
        return 0
    # `videos` last: after a crash between two files, the next call deletes the rest
    for name in sorted(SCHEMAS, key=lambda name: name == COMMIT_TABLE):
        path = out / name / part
        if path.exists():
            rows = read_table(path)
            write_table(rows.filter(pc.invert(pc.is_in(rows["video_id"], ids))), path)
    dropped: int = pc.sum(matches).as_py()
    return dropped


def read_run(out: Path) -> dict[str, Any]:
    """Read `run.json`; an empty dictionary if there was no run."""
    path = out / "run.json"
    if not path.exists():
        return {}
    run: dict[str, Any] = json.loads(path.read_text())
    return run


def write_run(out: Path, run: dict[str, Any]) -> None:
    """Write `run.json`, and keep the configurations of earlier runs in it."""
    earlier = read_run(out).get("configurations", {})
    others = {key: value for key, value in earlier.items() if key != run["config_id"]}
    configurations = {**others, run["config_id"]: run["configuration"]}
    write_json({**run, "configurations": configurations}, out / "run.json")


def load(
    out: str | Path,
    table: str = "clips",
    config_id: str | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """
    Read a table of results.

    Args:
        out: results folder.
        table: `clips`, `segments`, `frames`, or `videos`; or `features`: those of the newest run,
            one row per sampled frame, the column `feature` holds an array of float16, shape (D,).
        config_id: the configuration; that of the newest run by default.
        columns: names of the columns to read, in this order; all by default.

    Returns:
        The columns of the current version; those that an older version did not write are null.

    Raises:
        SourceError: the table, a column, or the results do not exist.
        DamagedFileError: a file of the table is truncated or corrupted.
    """
    out = Path(out)
    if table == "features":
        return _load_features(out, columns)
    if table not in SCHEMAS:
        raise SourceError(f"no table {table!r}; there are {', '.join(SCHEMAS)}, features")
    config_id = config_id or read_run(out).get("config_id")
    if config_id is None:
        raise SourceError(f"{out} holds no results: no run.json")
    return load_table(out, table, config_id, columns).to_pandas()


def load_table(
    out: Path, table: str, config_id: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """
    Read a table of one configuration as Arrow. All tables have their rows in the same order.

    Raises:
        SourceError: the table has no such column.
        DamagedFileError: a file of the table is truncated or corrupted.
    """
    schema = _select_columns(table, columns)
    tables = [read_table(path, schema) for path in part_paths(out, table, config_id)]
    return pa.concat_tables(tables or [schema.empty_table()])


def open_features(out: Path) -> FeatureStore:
    """Open the feature store that the newest run of a results folder used."""
    run = read_run(out)
    configuration = run["configuration"]
    chosen = run["options"]["features"]  # relative to the working folder of the run
    stores = features_folder(out, chosen and str(Path(run["working_folder"], chosen)))
    return FeatureStore(stores / configuration["features_id"], configuration["feature_size"])


def _load_features(out: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    _require_columns("features", columns or (), FEATURE_COLUMNS)
    videos = load(out, "videos", columns=["video", "video_id", "copy_of", "frames_sampled"])
    store = open_features(out)
    encoded = videos[videos.copy_of.isna() & (videos.frames_sampled > 0)]
    rows = [
        pd.DataFrame(
            {
                "video": video.video,
                "video_id": video.video_id,
                "sample_index": part.sample_index,
                "frame_index": part.frame_index,
                "pts_seconds": part.pts_seconds,
                "feature": list(part.values),
            }
        )
        for video in encoded.itertuples()
        for part in store.stream(str(video.video_id))
    ]
    features = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=FEATURE_COLUMNS)
    return features if columns is None else features[list(columns)]
