"""
Result tables in a folder: written atomically as Parquet, read back as pandas.

    OUT/clips  OUT/segments  OUT/frames  OUT/videos      part-<config_id>-<shard>.parquet
    OUT/run.json

Each shard has one file of the same name in every table. `videos` is written last: the shard is
finished once that file exists. A run deletes the files of unfinished shards when it starts. Rows
of several configurations lie side by side; `load` selects one by `config_id`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import fingerprint
from pipeline.encode.feature_store import FeatureStore, features_folder
from pipeline.errors import SourceError
from pipeline.results.rows import RowOptions, VideoRows, build_tables
from pipeline.results.schemas import COMMIT_TABLE, SCHEMAS
from pipeline.storage import file_lock, remove_temporary_files, write_json, write_table


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


def part_paths(out: Path, table: str, config_id: str) -> list[Path]:
    """List the files of a table that belong to a configuration, sorted by name."""
    return sorted((out / table).glob(f"part-{config_id}-*.parquet"))


def remove_incomplete(out: Path, options: RowOptions) -> int:
    """
    Delete temporary files, and the parts of shards that lack a table.

    Which tables another configuration writes is not known: its shards are complete if they have
    a part of `videos`.

    Returns:
        Number of files deleted.
    """
    folders = [out, *(out / table for table in SCHEMAS), *(out / "features").glob("*")]
    removed = sum(map(remove_temporary_files, folders))
    complete = {path.name for path in (out / COMMIT_TABLE).glob("part-*.parquet")}
    own = {name for name in complete if name.startswith(f"part-{options.config_id}-")}
    for table in options.tables:
        readable = {
            path.name for path in part_paths(out, table, options.config_id) if _is_readable(path)
        }
        complete -= own - readable
    for table in SCHEMAS:
        for path in (out / table).glob("part-*.parquet"):
            if path.name not in complete:
                path.unlink()
                removed += 1
    return removed


def _is_readable(path: Path) -> bool:
    """Whether the footer of a part can be read: after a disk failure a file may be empty."""
    try:
        pq.read_schema(path)
    except pa.ArrowInvalid:
        return False
    return True


@dataclass(frozen=True, slots=True)
class FinishedVideo:
    """An existing row of `videos`."""

    video: str
    path: str
    video_id: str
    status: str


def finished_videos(out: Path, config_id: str) -> list[FinishedVideo]:
    """List the videos that were finished with a configuration."""
    columns = ["video", "path", "video_id", "status"]
    return [
        FinishedVideo(**row)
        for part in part_paths(out, COMMIT_TABLE, config_id)
        for row in pq.read_table(part, columns=columns).to_pylist()
    ]


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
        matches = pc.is_in(pq.read_table(part, columns=["video_id"])["video_id"], ids)
        if not pc.any(matches).as_py():
            continue
        dropped += pc.sum(matches).as_py()
        # `videos` last: after a crash between two files, the next call deletes the rest
        for name in sorted(SCHEMAS, key=lambda name: name == COMMIT_TABLE):
            path = out / name / part.name
            if path.exists():
                rows = pq.read_table(path)
                write_table(rows.filter(pc.invert(pc.is_in(rows["video_id"], ids))), path)
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


def load(out: str | Path, table: str = "clips", config_id: str | None = None) -> pd.DataFrame:
    """
    Read a table of results.

    Args:
        out: results folder.
        table: `clips`, `segments`, `frames`, or `videos`; or `features`: those of the newest run,
            one row per sampled frame, the column `feature` holds an array of float16, shape (D,).
        config_id: the configuration; that of the newest run by default.

    Raises:
        SourceError: the table or the results do not exist.
    """
    out = Path(out)
    if table == "features":
        return _load_features(out)
    if table not in SCHEMAS:
        raise SourceError(f"no table {table!r}; there are {', '.join(SCHEMAS)}, features")
    config_id = config_id or read_run(out).get("config_id")
    if config_id is None:
        raise SourceError(f"{out} holds no results: no run.json")
    tables = [pq.read_table(path) for path in part_paths(out, table, config_id)]
    rows = pa.concat_tables(tables) if tables else SCHEMAS[table].empty_table()
    return rows.to_pandas()


def _load_features(out: Path) -> pd.DataFrame:
    videos = load(out, "videos")
    run = read_run(out)
    configuration = run["configuration"]
    chosen = run["options"]["features"]  # relative to the working folder of the run
    stores = features_folder(out, chosen and str(Path(run["working_folder"], chosen)))
    store = FeatureStore(stores / configuration["features_id"], configuration["feature_size"])
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
    columns = ["video", "video_id", "sample_index", "frame_index", "pts_seconds", "feature"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
