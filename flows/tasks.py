"""
Prefect tasks: one for a shard, and inside it one for each stage, in the same process.

Frames never leave the process that decoded them. Each stage is a run of its own, retried with
growing pauses; what is handed on is quoted, so that Prefect neither copies nor hashes nor stores
it.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff
from prefect.utilities.annotations import quote

from pipeline.config import RunOptions, fingerprint
from pipeline.decode.process_pool import PoolStopped
from pipeline.errors import InputError, VideoError
from pipeline.records import FrameFeatures, Shard, Video
from pipeline.results.rows import VideoRows
from pipeline.results.tables import lock_results
from pipeline.run import process
from pipeline.run.load import open_session
from pipeline.run.session import Session
from pipeline.run.shard_decoder import Decoded

logger = logging.getLogger(__name__)


class Workshop:
    """The pipelines of this process: loading one costs seconds, so all shards share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipelines: dict[str, Session] = {}
        self.found: dict[str, list[Video]] = {}
        """Videos that the command line has found already, so that the flow need not."""
        self.stopping = threading.Event()

    def __reduce__(self) -> str:
        """Pickle by name: Prefect pickles a served flow with what it refers to."""
        return "workshop"

    @contextlib.contextmanager
    def opened(
        self, key: str, out: Path, options: RunOptions, videos: Sequence[Video] = ()
    ) -> Iterator[Session]:
        """Open a pipeline and hold its results folder; one that is open already is shared."""
        if key in self._pipelines:
            yield self._pipelines[key]
            return
        with lock_results(out, wait=options.wait):
            with open_session(out, options, videos=videos) as session:
                self._pipelines[key] = session
                try:
                    yield session
                finally:
                    del self._pipelines[key]

    def stop(self) -> None:
        """End what is decoded, and let no stage be tried again."""
        self.stopping.set()
        for session in list(self._pipelines.values()):
            session.pool.kill()

    def get(self, key: str, out: str, options: dict[str, Any]) -> Session:
        """
        Find the pipeline of a run; open it in a process that has none.

        The flow has opened it where its tasks are threads of its process, as they always are so
        far: a task runner of other processes would need one in each of them.
        """
        with self._lock:
            if key not in self._pipelines:
                self._pipelines[key] = open_session(Path(out), RunOptions.from_json(options))
            return self._pipelines[key]


workshop = Workshop()
"""One a process: whatever imports this module has its own."""


def stop_all() -> None:
    """Stop decoding and retries in this process; called when it is to end."""
    workshop.stop()


def run_key(out: str, options: dict[str, Any]) -> str:
    """Name a run among those of this process."""
    return fingerprint(out, options)


def worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell failures of the machine, which may pass, from those that another attempt repeats."""
    if workshop.stopping.is_set():
        return False
    error = state.result(raise_on_failure=False)
    if isinstance(error, (InputError, VideoError, PoolStopped, ValueError, TypeError)):
        return False
    logger.warning("%s failed: %r", task.name, error)
    return True


STAGE: dict[str, Any] = {
    "persist_result": False,
    "cache_policy": NO_CACHE,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(1),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
    "log_prints": False,
}


@task(name="decode", **STAGE)
def decode(session: Session, shard: Shard) -> Decoded:
    """Decode the chunks of a shard."""
    return session.decode(shard)


@task(name="encode", **STAGE)
def encode(session: Session, decoded: Decoded) -> list[FrameFeatures]:
    """Encode the frames of a shard, and keep the features."""
    return session.encode(decoded)


@task(name="recognize", **STAGE)
def recognize(session: Session, shard: Shard, features: Sequence[FrameFeatures]) -> list[VideoRows]:
    """Label clips and frames."""
    return session.recognize(shard, features)


@task(name="write", **STAGE)
def write(session: Session, rows: Sequence[VideoRows]) -> int:
    """Write the rows of a shard: with that it is done."""
    return session.write(rows)


@task(name="process-shard", persist_result=False, cache_policy=NO_CACHE)
def process_shard(key: str, out: str, options: dict[str, Any], shard: Shard) -> int:
    """Take one shard the whole way, all in this process. Returns the clips written."""
    session = workshop.get(key, out, options)
    return process.process_shard(session, shard, _as_tasks(session))


def _as_tasks(session: Session) -> process.Stages:
    """Make each stage a task run."""

    def quoted(stage: Any) -> Any:
        return lambda *given: stage(quote(session), *map(quote, given))

    return process.Stages(quoted(decode), quoted(encode), quoted(recognize), quoted(write))
