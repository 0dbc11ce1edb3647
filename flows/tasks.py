"""
Prefect tasks: one for a shard, and inside it one for each stage, in the same process.

Frames never leave the process that decoded them. Each stage is a task run of its own, retried with
exponential backoff. Arguments are quoted, so that Prefect neither copies nor hashes nor stores
them.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task, exponential_backoff
from prefect.utilities.annotations import quote

from pipeline.decode.process_pool import PoolStopped
from pipeline.errors import InputError, VideoError
from pipeline.records import FrameFeatures, Shard
from pipeline.results.rows import VideoRows
from pipeline.run import process, stages
from pipeline.run.process import ShardResult, Stages, Submit
from pipeline.run.session import Session
from pipeline.run.shard_decoder import Decoded
from pipeline.run.stages import Encoded

logger = logging.getLogger(__name__)
PERMANENT = (InputError, VideoError, PoolStopped, ValueError, TypeError)
"""Errors that another attempt would repeat."""


def is_retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell errors of the machine, which may pass, from those that another attempt would repeat."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, PERMANENT):
        return False
    logger.warning("%s failed: %r", task.name, error)
    return True


STAGE: dict[str, Any] = {
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(1),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_retryable,
    "log_prints": False,
}


@contextlib.contextmanager
def _final_when_stopping(session: Session) -> Iterator[None]:
    """Turn any error into one that is not retried, once the process is to end."""
    try:
        yield
    except Exception as error:
        if session.stopping.is_set():
            raise PoolStopped from error
        raise


@task(name="decode", **STAGE)
def decode(session: Session, shard: Shard) -> Decoded:
    """Decode the chunks of a shard."""
    with _final_when_stopping(session):
        return stages.decode(session, shard)


@task(name="encode", **STAGE)
def encode(session: Session, decoded: Decoded) -> Encoded:
    """Encode the frames of a shard, and store the features."""
    with _final_when_stopping(session):
        return stages.encode(session, decoded)


@task(name="recognize", **STAGE)
def recognize(session: Session, shard: Shard, features: Sequence[FrameFeatures]) -> list[VideoRows]:
    """Label clips and frames."""
    with _final_when_stopping(session):
        return stages.recognize(session, shard, features)


@task(name="write", **STAGE)
def write(session: Session, rows: Sequence[VideoRows]) -> int:
    """Write the rows of a shard, which completes it."""
    with _final_when_stopping(session):
        return stages.write(session, rows)


def _quoted(stage: Any) -> Any:
    return lambda *arguments: stage(*map(quote, arguments))


STAGES = Stages(_quoted(decode), _quoted(encode), _quoted(recognize), _quoted(write))
"""Each stage as a task run."""


@task(name="process-shard", persist_result=False, cache_policy=NO_CACHE)
def process_shard(session: Session, shard: Shard) -> ShardResult:
    """Take one shard through all stages, in this process."""
    return process.process_shard(session, shard, STAGES)


@contextlib.contextmanager
def as_tasks(session: Session) -> Iterator[Submit]:
    """Process shards as tasks of the current flow run, in threads of this process."""
    with ThreadPoolTaskRunner(max_workers=session.window) as runner:  # type: ignore[var-annotated]
        yield lambda shard: runner.submit(
            process_shard, {"session": quote(session), "shard": quote(shard)}
        )
