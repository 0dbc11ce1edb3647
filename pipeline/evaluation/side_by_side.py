"""
Run independent trainings side by side, in one process per CPU.

    results = run_trainings(train_fold, shared, tasks, parallel_trainings(options))

Each training uses one thread: the models are small, and threads that wait for each other at every
time step are slow where another program uses a CPU. So the results are the same, bit for bit,
however many trainings run at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.errors import MachineError
from pipeline.machine import available_cpus, available_memory_bytes
from pipeline.temporal.options import TrainingOptions
from pipeline.temporal.training_loop import single_thread, training_device

START_SECONDS = 10.0
"""Processes are started if all trainings in this process would take longer: each needs about two
seconds to import its libraries."""
MEMORY_BYTES = 1 << 30
"""Memory of one training process, about."""

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")


def parallel_trainings(options: TrainingOptions) -> int:
    """Give how many trainings should run at once: one per CPU if memory allows, one on a GPU."""
    if training_device(options).type != "cpu":
        return 1
    return max(1, min(available_cpus(), available_memory_bytes() // MEMORY_BYTES))


def run_trainings(
    train: Callable[[Shared, Task], Result],
    shared: Shared,
    tasks: Sequence[Task],
    max_parallel: int,
) -> Iterator[Result]:
    """
    Call `train(shared, task)` for every task, and yield the results in the order of the tasks.

    The first training runs in this process. Are the others expected to take long, they run in
    other processes, `max_parallel` at a time.

    Args:
        train: a function of a module, which processes import by its name. Without tensors in its
            arguments and results, but arrays: tensors are not copied to other processes.
        shared: what all trainings read, such as the examples; copied to each process once.
        tasks: what differs between trainings, such as fold and seed.
        max_parallel: from `parallel_trainings`; 1 runs everything in this process.

    Raises:
        MachineError: a training process was killed.
    """
    left = deque(tasks)
    while left:
        start = time.monotonic()
        with single_thread():
            result = train(shared, left.popleft())
        seconds = time.monotonic() - start
        yield result
        if min(max_parallel, len(left)) > 1 and len(left) * seconds > START_SECONDS:
            yield from _run_in_processes(train, shared, left, max_parallel)


class TrainingProcess:
    """A process that runs one training at a time."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pipeline.evaluation.training_process",
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends
                env=_environment(),
                process_group=0,  # Ctrl-C is for this process, which ends the others
            )

    def send(self, message: Any) -> None:
        """Send a message to the process."""
        try:
            self.connection.send(message)
        except OSError as error:
            raise self._lost() from error

    def receive(self) -> Any:
        """Wait for the result of a task; an exception that it raised is raised here."""
        try:
            succeeded, answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if not succeeded:
            raise answer
        return answer

    def _lost(self) -> MachineError:
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return MachineError(f"a training process {how}; was there enough memory?")

    def kill(self) -> None:
        """End the process."""
        self.connection.close()
        self._process.kill()
        self._process.communicate()


def _environment() -> dict[str, str]:
    """Let the process import this package, and its libraries use one thread."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": path}


def _run_in_processes(
    train: Callable[[Shared, Task], Result],
    shared: Shared,
    tasks: deque[Task],
    max_parallel: int,
) -> Iterator[Result]:
    """Run the tasks, which are removed, in processes. Yields the results in their order."""
    processes: list[TrainingProcess] = []
    try:
        for _ in range(min(max_parallel, len(tasks))):
            processes.append(TrainingProcess())
        for process in processes:
            process.send((train, shared))
        yield from _in_order(processes, tasks)
    finally:
        for process in processes:
            process.kill()


def _in_order(processes: Sequence[TrainingProcess], tasks: deque[Any]) -> Iterator[Any]:
    """Give tasks to processes that are idle, and yield the results in the order of the tasks."""
    count, number = len(tasks), 0
    idle, running = list(processes), dict[Connection, tuple[TrainingProcess, int]]()
    results: dict[int, Any] = {}
    while number < count:
        while idle and tasks:
            process = idle.pop()
            running[process.connection] = process, count - len(tasks)
            process.send(tasks.popleft())
        for connection in wait(list(running)):
            process, task = running.pop(cast(Connection, connection))
            results[task] = process.receive()
            idle.append(process)
        while number in results:
            yield results.pop(number)
            number += 1
