"""
The flow: find videos, cut them into shards, keep a window of shards in flight, report.

Runs started by a deployment import this module by its path, and Prefect reads the parameters'
types: annotations must not be postponed here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

from flows.tasks import process_shard, run_key, workshop
from pipeline.config import RunOptions
from pipeline.records import Shard, Video
from pipeline.run.process import drive
from pipeline.run.run_record import finish
from pipeline.run.session import Session
from pipeline.sources.discovery import find_videos


@flow(name="process-folder", flow_run_name="{out}", persist_result=False)
def process_folder(sources: list[str], out: str, options: dict[str, Any]) -> State[dict[str, Any]]:
    """
    Process videos into the results folder `out`.

    Args:
        sources: files, folders, globs, lists.
        out: results folder.
        options: `RunOptions` as plain values; unknown names are refused.
    """
    # one name for one folder, however it was written: runs are found by it
    out = str(Path(out))
    chosen = RunOptions.from_json(options)
    key = run_key(out, options)
    videos = workshop.found.pop(key, None)
    if videos is None:
        videos = find_videos(sources, image_fps=chosen.image_fps, full_hash=chosen.full_hash)
    with workshop.opened(key, Path(out), chosen, videos) as session:
        failures = run_shards(session, videos, options)
        context = FlowRunContext.get()
        run_id = str(context.flow_run.id) if context and context.flow_run else None
        summary = finish(session, sources, failures, run_id)
    if failures:
        message = f"{len(failures)} shards failed, the first with {failures[0]!r}"
        return Failed(message=message, data=summary)
    return Completed(message=f"{summary['counts']['clips']} clips", data=summary)


def run_shards(
    session: Session, videos: Sequence[Video], options: dict[str, Any]
) -> list[Exception]:
    """Run the shards as tasks of the current flow run. Returns what went wrong for good."""
    key = run_key(str(session.out), options)
    with ThreadPoolTaskRunner(max_workers=session.window) as runner:  # type: ignore[var-annotated]

        def submit(shard: Shard) -> Any:
            parameters = {
                "key": key,
                "out": str(session.out),
                "options": quote(options),
                "shard": quote(shard),
            }
            return runner.submit(process_shard, parameters)

        return drive(session, session.planner.plan(videos), submit)
