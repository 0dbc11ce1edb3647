"""The command `forget`: drop the rows of files that were deleted."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.cli.options import SWITCH, Quiet
from flows.cli.retry import ResultsFolder
from pipeline.errors import SourceError


def forget(
    out: ResultsFolder,
    /,
    *,
    dry_run: Annotated[bool, SWITCH, Parameter(help="Only list the files.")] = False,
    quiet: Quiet = False,
) -> None:
    """Drop the rows of files that no longer exist from all tables of OUT.

    Rows of copies that exist stay, and so do stored features.
    """
    from flows.cli.console import print_line
    from pipeline.results.deleted_files import drop_deleted, find_deleted
    from pipeline.results.report import write_report
    from pipeline.results.tables import lock_results, read_run

    if not read_run(out):
        raise SourceError(f"{out} holds no results: no run.json")
    with lock_results(out):
        found, others = find_deleted(out)
        paths = sorted({row.path for rows in found.values() for row in rows})
        if paths and not others:
            raise SourceError(
                f"none of the {len(paths)} files of {out} exists: if a disk is not mounted, mount "
                f"it; if they were deleted, delete {out}"
            )
        if not quiet or dry_run:
            for path in paths:
                print_line(path)
        if not dry_run:
            for config_id, rows in found.items():
                drop_deleted(out, config_id, rows)
            if paths:
                write_report(out)
    if not quiet:
        done = "would be dropped" if dry_run else "were dropped"
        files = f"{len(paths)} file{'s' * (len(paths) != 1)}"
        print_line(f"rows of {files} that no longer exist {done}")
