"""
A pool of decode processes that can be killed at any time.

Each process belongs to one thread of the pool, which sends it jobs, enforces the timeouts, and
starts a new process after a hang, a crash or a kill from outside.
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
from pipeline.decode.protocol import Message, receive, send
from pipeline.decode.shared_memory import RING_PARTS, RingBuffer
from pipeline.errors import DecoderLost, MachineError, VideoError
from pipeline.records import Images, Integers

START_SECONDS = 120.0
"""Timeout for the start of a process; imports from a busy disk are slow."""
BUDGET_FRAMES = 30_000
"""Frames that `video_timeout_seconds` is for; a job that reads more gets proportionally more."""
RING_BYTES = 32 << 20
"""Size of the ring buffer of a process; larger only where four frames do not fit."""
INDEX_PRIORITY, DECODE_PRIORITY = 0, 1
"""Waiting jobs of the lower number are run first."""

T = TypeVar("T")
Put = Callable[[int, Images, Integers], None]
"""Called with the row of the first image, the images (n, h, w, 3), and the frame position of each,
(n,). Must copy them: their memory is overwritten afterwards."""
logger = logging.getLogger(__name__)


class JobTimeout(DecoderLost):
    """A decode process sent no progress, or exceeded its time limit; it was killed."""


class StartFailed(MachineError):
    """A decode process could not be started; this says nothing about the video."""


class PoolStopped(MachineError):
    """The pool was stopped before the job ended; this says nothing about the video."""

    def __init__(self) -> None:
        super().__init__("the decode processes were stopped")


class DecodeProcess:
    """One decode process, restarted by the next job after it was killed. Used by one thread."""

    def __init__(self, options: DecodeOptions) -> None:
        self.options = options
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._ring: RingBuffer | None = None
        """Shared memory that the process fills with images."""
        self.indexed_location: str | None = None
        """Location of the video whose index the process keeps, so that it is sent once."""
        self.on_progress: Callable[[], None] = lambda: None
        """Called after every message from the process."""
        self.start_seconds = 0.0
        """Duration of the last start."""

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        return self._process.pid if self._process else None

    def ask(self, job: Message, put: Put | None = None) -> Message:
        """
        Run one job, and wait for its answer.

        Args:
            job: the message for the process.
            put: called with the images, in the `size` of the job, as they are decoded.

        Raises:
            JobTimeout: no frame for `frame_timeout_seconds`, or `video_timeout_seconds` in total.
            DecoderLost: the process died.
            StartFailed: there was no process, and none could be started.
            PoolStopped: the pool was stopped.
            VideoError: the file cannot be used, with any reader.
        """
        if self._stopped:
            raise PoolStopped
        self.start()
        try:
            channel = self._channel
            assert channel is not None
            channel.settimeout(self.options.frame_timeout_seconds)
            send(channel, job, self._ring_descriptor(job) if put else None)
            answer = _escape_text(self._wait(channel, job, put))
        except JobTimeout:
            self.kill()
            raise
        except TimeoutError as error:
            self.kill()
            raise JobTimeout("the decode process does not read its channel") from error
        except (EOFError, OSError) as error:
            message = self._exit_message()
            if self._stopped:
                raise PoolStopped from error
            raise DecoderLost(message) from error
        except BaseException:
            self.kill()  # it waits for a release of its ring that would never come
            raise
        if "status" in answer:
            if answer["status"] == "out_of_memory":
                self.kill()  # memory that its libraries still hold would be missing in the next job
            raise VideoError(answer["status"], answer["message"])
        return answer

    def start(self) -> None:
        """
        Start the process, unless it runs. After a failure there is no process.

        Raises:
            StartFailed: it could not be started, or did not answer in time.
            PoolStopped: the pool was stopped.
        """
        if self._channel is not None:
            return
        began = time.monotonic()
        try:
            receive(self._launch())
        except (EOFError, OSError) as error:
            message = self._start_error(error)
            self.kill()  # a late message would be taken for the answer to the next job
            if self._stopped:
                raise PoolStopped from error
            raise StartFailed(f"no decode process could be started: {message}") from error
        self.start_seconds = time.monotonic() - began

    def _launch(self) -> socket.socket:
        """Start the program, and return the channel on which it reports that it is ready."""
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
        if self._stopped:  # meanwhile, by another thread that found no process to kill
            self._process.kill()
        return self._channel

    def _budget_seconds(self, job: Message) -> float:
        """Compute the time limit of a job: reading a long file from its start takes longer."""
        frames: int = job.get("frames", 0)
        return self.options.video_timeout_seconds * max(1.0, frames / BUDGET_FRAMES)

    def _start_error(self, error: EOFError | OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"it did not answer in {START_SECONDS:.0f} s"
        return self._exit_message() if isinstance(error, EOFError) else str(error)

    def _ring_descriptor(self, job: Message) -> int | None:
        """Create a ring buffer for the image size of a job; None where the process has one."""
        num_bytes = max(RING_BYTES, RING_PARTS * math.prod(job["size"]) * 3)
        if self._ring is not None and self._ring.num_bytes == num_bytes:
            return None
        if self._ring is not None:
            self._ring.close()
        self._ring = RingBuffer(num_bytes)
        return self._ring.descriptor

    def _wait(self, channel: socket.socket, job: Message, put: Put | None) -> Message:
        options = self.options
        budget_seconds = self._budget_seconds(job)
        end = time.monotonic() + budget_seconds
        while True:
            left = end - time.monotonic()
            channel.settimeout(max(0.01, min(options.frame_timeout_seconds, left)))
            try:
                answer, _ = receive(channel)
            except TimeoutError as error:
                raise JobTimeout(self._timeout_message(end, budget_seconds)) from error
            if "filled" in answer:
                self._read_images(answer, job, put)
            elif "progress" not in answer:
                return answer
            self.on_progress()
            if time.monotonic() > end:
                raise JobTimeout(self._timeout_message(end, budget_seconds))

    def _read_images(self, message: Message, job: Message, put: Put | None) -> None:
        """Pass images from the ring buffer to `put`, and release their memory."""
        assert self._ring is not None
        assert self._channel is not None
        assert put is not None
        frames = np.asarray(message["frames"], np.int64)
        start, stop = message["filled"], message["filled"] + len(frames)
        for part in self._ring.parts(tuple(job["size"]), start, stop):
            put(start, part, frames[: len(part)])
            start, frames = start + len(part), frames[len(part) :]
        send(self._channel, {"free": stop})

    def _timeout_message(self, end: float, budget_seconds: float) -> str:
        if time.monotonic() >= end:
            return f"took longer than {budget_seconds:g} s (--video-timeout)"
        return f"no frame for {self.options.frame_timeout_seconds:g} s (--frame-timeout)"

    def _exit_message(self) -> str:
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
        """Kill the process for good, from any thread: later jobs raise `PoolStopped`."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def kill(self) -> None:
        """Kill the process; the next job starts a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._channel is not None:
            self._channel.close()
        if self._ring is not None:
            self._ring.close()
        self._process = self._channel = self._ring = self.indexed_location = None


def _escape_text(answer: Message) -> Message:
    """Escape text that tables cannot store: libraries repeat file names that may not be UTF-8."""
    texts = {name: value for name, value in answer.items() if isinstance(value, str)}
    escaped = {n: text.encode("utf-8", "backslashreplace").decode() for n, text in texts.items()}
    return {**answer, **escaped}


def _environment() -> dict[str, str]:
    """Let the child import this package, and its libraries use one thread."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # keep the memory of freed frames for the next ones: new pages cost page faults
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": "protocol_whitelist;file",
    }


class DecodePool:
    """
    Runs jobs on decode processes, one per thread; index jobs before decode jobs.

    Args:
        options: number of processes, and their limits.
        eager: start the processes now instead of with their first jobs.
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

    def submit(
        self, run: Callable[[DecodeProcess], T], priority: int = DECODE_PRIORITY
    ) -> Future[T]:
        """Call `run` with a decode process, as soon as one is free."""
        future: Future[T] = Future()
        if self._closed:
            future.set_exception(PoolStopped())
            return future
        self._jobs.put((priority, next(self._numbers), run, future))
        return future

    def _serve(self, process: DecodeProcess) -> None:
        if self._eager:
            with contextlib.suppress(MachineError):  # the first job starts it again
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
            except BaseException as error:  # raised again by `future.result`
                future.set_exception(error)
            del run, future
        process.kill()

    @property
    def start_seconds(self) -> float:
        """Duration of the slowest start of a process."""
        return max(process.start_seconds for process in self._processes)

    def pids(self) -> list[int]:
        """Process ids of the decode processes that run now."""
        return [process.pid for process in self._processes if process.pid is not None]

    def kill(self) -> None:
        """
        Kill the processes without waiting; jobs that run or wait fail with `PoolStopped`.

        Safe to call from a signal handler.
        """
        self._closed = True
        for process in self._processes:
            process.stop()  # its thread then gets EOFError from the channel

    def close(self) -> None:
        """Kill the processes and wait until they are gone."""
        self.kill()
        for _ in self._threads:
            self._jobs.put((DECODE_PRIORITY + 1, next(self._numbers), None, None))
        for thread in self._threads:
            thread.join()
        self._threads = []
