"""
The flow: find videos, cut them into shards, keep a window of shards in flight, report.

Runs started by a deployment import this module by its path, and Prefect reads the parameters'
types: annotations must not be postponed here.
"""

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
from pipeline.process import Pipeline, drive, summarize
from pipeline.records import Shard
from pipeline.report import write_report
from pipeline.results import write_run
from pipeline.sources import find_videos


@flow(name="process-folder", flow_run_name="{out}", persist_result=False)
def process_folder(sources: list[str], out: str, options: dict[str, Any]) -> State[dict[str, Any]]:
    """
    Process videos into the results folder `out`.

    Args:
        sources: files, folders, globs, lists.
        out: results folder.
        options: `RunOptions` as plain values; unknown names are refused.
    """
    chosen = RunOptions.from_json(options)
    with workshop.opened(run_key(out, options), Path(out), chosen) as pipeline:
        failures = run_shards(pipeline, sources, options)
        context = FlowRunContext.get()
        run_id = str(context.flow_run.id) if context and context.flow_run else None
        summary = finish(pipeline, sources, failures, run_id)
    if failures:
        message = f"{len(failures)} shards failed, the first with {failures[0]!r}"
        return Failed(message=message, data=summary)
    return Completed(message=f"{summary['counts']['clips']} clips", data=summary)


def run_shards(pipeline: Pipeline, sources: list[str], options: dict[str, Any]) -> list[Exception]:
    """Run the shards as tasks of the current flow run. Returns what went wrong for good."""
    chosen = pipeline.options
    key = run_key(str(pipeline.out), options)
    videos = workshop.found.pop(key, None)
    if videos is None:
        videos = find_videos(sources, image_fps=chosen.image_fps, full_hash=chosen.full_hash)
    with ThreadPoolTaskRunner(max_workers=chosen.shards.window) as runner:  # type: ignore[var-annotated]

        def submit(shard: Shard) -> Any:
            parameters = {
                "key": key,
                "out": str(pipeline.out),
                "options": quote(options),
                "shard": quote(shard),
            }
            return runner.submit(process_shard, parameters)

        return drive(pipeline, pipeline.planner.plan(videos), submit)


def finish(
    pipeline: Pipeline, sources: list[str], failures: list[Exception], run_id: str | None
) -> dict[str, Any]:
    """Write `run.json` and the page, and give what a command prints."""
    summary = summarize(pipeline, sources, failures, run_id)
    write_run(pipeline.out, summary)
    write_report(pipeline.out)
    return summary
