"""
A pool of decode processes that can be killed at any moment.

Each process belongs to one thread here, which gives it jobs, watches its deadlines, and starts
another when it hangs, crashes or is killed from outside.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.config import DecodeOptions
from pipeline.decode import worker
from pipeline.decode.shared_memory import RingBuffer
from pipeline.errors import DecoderLost, MachineError, VideoError
from pipeline.records import Images, Integers

START_SECONDS = 120.0
"""A process that has not answered by then never will; importing on a busy disk takes long."""
BUDGET_FRAMES = 30_000
"""Frames that the time allowed is meant for; a job that reads more of them gets more."""
RING_BYTES = 32 << 20
"""Decoded pictures on their way from a process, at most, unless they are very large."""
FIRST, LAST = 0, 1
"""Order in which waiting jobs are taken."""

T = TypeVar("T")
Put = Callable[[int, Images, Integers], None]
"""Is given the row of the first picture, pictures (n, h, w, 3), and the frame of each; afterwards
their memory is filled again."""
logger = logging.getLogger(__name__)


class JobTimeout(DecoderLost):
    """A decode process gave no sign of life, or used up its time; it was killed."""


class StartFailed(MachineError):
    """A decode process could not be started: nothing is to be concluded about any video."""


class PoolStopped(MachineError):
    """The run ends: nothing is to be concluded about any video."""

    def __init__(self) -> None:
        super().__init__("the decode processes were stopped")


class DecodeProcess:
    """One decode process; a new one takes its place after it was killed. Used by one thread."""

    def __init__(self, options: DecodeOptions) -> None:
        self.options = options
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ring: RingBuffer | None = None
        """Memory that this process fills with pictures."""
        self.known: str | None = None
        """Location of the video whose index this process still has."""
        self.on_progress: Callable[[], None] = lambda: None
        self.start_seconds = 0.0
        """How long the last start took."""

    @property
    def pid(self) -> int | None:
        """Process number, once started."""
        return self._process.pid if self._process else None

    def ask(self, job: worker.Message, put: Put | None = None) -> worker.Message:
        """
        Run one job.

        Args:
            job: what to do.
            put: is given pictures of the `size` of the job as they come.

        Raises:
            JobTimeout: no frame for `frame_timeout_seconds`, or `video_timeout_seconds` in all.
            DecoderLost: the process died.
            StartFailed: there was none yet, and none could be started.
            PoolStopped: the run ends.
            VideoError: the file cannot be used, whoever reads it.
        """
        if self._stopped:
            raise PoolStopped
        self.start()
        try:
            channel = self._channel
            assert channel is not None
            channel.settimeout(self.options.frame_timeout_seconds)
            worker.send(channel, job, self._lent(job) if put else None)
            answer = _storable(self._wait(channel, job, put))
        except JobTimeout:
            self.kill()
            raise
        except TimeoutError as error:
            self.kill()
            raise JobTimeout("the decode process does not listen") from error
        except (EOFError, OSError) as error:
            words = self._last_words()
            if self._stopped:
                raise PoolStopped from error
            raise DecoderLost(words) from error
        except BaseException:
            self.kill()  # it waits for memory that nobody will give back
            raise
        if "status" in answer:
            if answer["status"] == "out_of_memory":
                self.kill()  # what it still holds would be missing in the next job
            raise VideoError(answer["status"], answer["message"])
        return answer

    def start(self) -> None:
        """
        Start the process, unless it runs. After a failure there is none.

        Raises:
            StartFailed: it could not be started, or did not answer in time.
            PoolStopped: the run ends.
        """
        if self._channel is not None:
            return
        began = time.monotonic()
        try:
            worker.receive(self._launched())
        except (EOFError, OSError) as error:
            words = self._why_not_started(error)
            self.kill()  # what it might still say would be taken for the answer to a job
            if self._stopped:
                raise PoolStopped from error
            raise StartFailed(f"no decode process could be started: {words}") from error
        self.start_seconds = time.monotonic() - began

    def _launched(self) -> socket.socket:
        """Start the program, and give the channel on which it will say that it is ready."""
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(START_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pipeline.decode.worker",
                    str(theirs.fileno()),
                    str(self.options.memory_bytes),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
            )
        if self._stopped:  # meanwhile, by another thread that found no process to end
            self._process.kill()
        return self._channel

    def _budget_seconds(self, job: worker.Message) -> float:
        """Tell how long a job may take: what reads a long file from its start needs longer."""
        frames: int = job.get("frames", 0)
        return self.options.video_timeout_seconds * max(1.0, frames / BUDGET_FRAMES)

    def _why_not_started(self, error: EOFError | OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"it did not answer in {START_SECONDS:.0f} s"
        return self._last_words() if isinstance(error, EOFError) else str(error)

    def _lent(self, job: worker.Message) -> int | None:
        """Make a ring for pictures of the size of a job; None where the process has it already."""
        num_bytes = max(RING_BYTES, worker.PARTS * math.prod(job["size"]) * 3)
        if self._ring is not None and self._ring.num_bytes == num_bytes:
            return None
        if self._ring is not None:
            self._ring.close()
        self._ring = RingBuffer(num_bytes)
        return self._ring.descriptor

    def _wait(self, channel: socket.socket, job: worker.Message, put: Put | None) -> worker.Message:
        options = self.options
        budget_seconds = self._budget_seconds(job)
        end = time.monotonic() + budget_seconds
        while True:
            left = end - time.monotonic()
            channel.settimeout(max(0.01, min(options.frame_timeout_seconds, left)))
            try:
                answer, _ = worker.receive(channel)
            except TimeoutError as error:
                raise JobTimeout(self._why(end, budget_seconds)) from error
            if "filled" in answer:
                self._look(answer, job, put)
            elif "progress" not in answer:
                return answer
            self.on_progress()
            if time.monotonic() > end:
                raise JobTimeout(self._why(end, budget_seconds))

    def _look(self, told: worker.Message, job: worker.Message, put: Put | None) -> None:
        """Take pictures out of the ring, and give their memory back."""
        assert self._ring is not None
        assert self._channel is not None
        assert put is not None
        frames = np.asarray(told["frames"], np.int64)
        start, stop = told["filled"], told["filled"] + len(frames)
        for part in self._ring.parts(tuple(job["size"]), start, stop):
            put(start, part, frames[: len(part)])
            start, frames = start + len(part), frames[len(part) :]
        worker.send(self._channel, {"free": stop})

    def _why(self, end: float, budget_seconds: float) -> str:
        if time.monotonic() >= end:
            return f"took longer than {budget_seconds:g} s (--video-timeout)"
        return f"no frame for {self.options.frame_timeout_seconds:g} s (--frame-timeout)"

    def _last_words(self) -> str:
        process = self._process
        code = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=2)
        self.kill()
        if code is not None and code < 0:
            return f"the decode process was ended by signal {-code}"
        return f"the decode process ended with code {code}"

    def stop(self) -> None:
        """End the process, and let no other take its place, from any thread."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._channel is not None:
            self._channel.close()
        if self._ring is not None:
            self._ring.close()
        self._process = self._channel = self._ring = self.known = None


def _storable(answer: worker.Message) -> worker.Message:
    """Escape what tables cannot store: libraries name files in bytes that may be no UTF-8."""
    texts = {name: value for name, value in answer.items() if isinstance(value, str)}
    plain = {n: text.encode("utf-8", "backslashreplace").decode() for n, text in texts.items()}
    return {**answer, **plain}


def _environment() -> dict[str, str]:
    """Let the child find this package, and its libraries stay on one thread."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # pictures come and go: their memory is kept for the next, not asked of the kernel each time
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file",
    }


class DecodePool:
    """
    Runs jobs on decode processes, one a worker; index jobs go before decode jobs.

    Args:
        options: how many processes, and their limits.
        eager: start the processes now, not with their first jobs.
    """

    def __init__(self, options: DecodeOptions, *, eager: bool = False) -> None:
        self.options = options
        self._eager = eager
        self._jobs: queue.PriorityQueue[Any] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._closed = False
        self._processes = [DecodeProcess(options) for _ in range(options.num_workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), name="decode", daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, run: Callable[[DecodeProcess], T], order: int = LAST) -> Future[T]:
        """Run something with a decode process, as soon as one is free."""
        future: Future[T] = Future()
        if self._closed:
            future.set_exception(PoolStopped())
            return future
        self._jobs.put((order, next(self._numbers), run, future))
        return future

    def _serve(self, process: DecodeProcess) -> None:
        if self._eager:
            with contextlib.suppress(MachineError):  # the first job tries again
                process.start()
        while True:
            _, _, run, future = self._jobs.get()
            if run is None:
                break
            if not future.set_running_or_notify_cancel():
                continue
            if self._closed:
                future.set_exception(PoolStopped())
                continue
            try:
                future.set_result(run(process))
            except BaseException as error:  # handed to whoever waits
                future.set_exception(error)
            del run, future
        process.kill()

    @property
    def start_seconds(self) -> float:
        """How long the slowest start of a process took."""
        return max(process.start_seconds for process in self._processes)

    def pids(self) -> list[int]:
        """Process numbers of the decode processes that run now."""
        return [process.pid for process in self._processes if process.pid is not None]

    def kill(self) -> None:
        """
        Kill the processes without waiting; jobs that run or wait fail with `PoolStopped`.

        Safe to call from a signal handler.
        """
        self._closed = True
        for process in self._processes:
            process.stop()  # the thread that waits for an answer sees the channel end

    def close(self) -> None:
        """Kill the processes and wait until they are gone."""
        self.kill()
        for _ in self._threads:
            self._jobs.put((LAST + 1, next(self._numbers), None, None))
        for thread in self._threads:
            thread.join()
        self._threads = []
