"""
The decode process: runs one job at a time, over a socket, until its parent closes it.

Run as `python -m pipeline.decode.worker FD MEMORY_BYTES`. It is a process because native decoders
hang and crash: this one can be killed at any time, and only the current job is lost. Frames go to
the parent through a ring buffer in shared memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.config import Sampling
from pipeline.decode.container_index import read_index
from pipeline.decode.downscale import downscale
from pipeline.decode.protocol import Message, receive, send
from pipeline.decode.readers.base import Frame, Reader, ReaderRefused, Request
from pipeline.decode.readers.choose import READERS
from pipeline.decode.sampling import SamplePlan, Selector, TimedFrame
from pipeline.decode.shared_memory import RING_PARTS, as_ring
from pipeline.decode.shot_detector import ShotDetector
from pipeline.decode.unusable_files import ENCRYPTED, io_error_text, is_encrypted
from pipeline.decode.webp import read_webp_index
from pipeline.errors import VideoError
from pipeline.records import Images, VideoIndex
from pipeline.sources.image_sequence import read_image_index
from pipeline.sources.stills import is_animated_webp, read_head

PROGRESS_SECONDS = 0.2
"""Time between two progress messages, at least."""
TRANSIENT_ERRNOS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})
"""Errors of a disk or a network drive that may pass within seconds."""
RETRY_DELAYS_SECONDS = (0.5, 1.5)
"""Before the second and the third attempt to read a file."""
HARMLESS_WARNINGS = re.compile(r"libpng warning: |TIFF.*Unknown field with tag")
"""OpenCV's warnings on undamaged images from photo editors; damage of a PNG is an error."""
MAX_STDERR_BYTES, MAX_STDERR_CHARACTERS = 1 << 20, 4096
"""Of what decoders print during a job: read, and sent to the parent."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`."""
KEEP_FREED_BYTES = 64 << 20
"""Freed memory that a process keeps for the next frames."""
DEFAULT_RATE = 25.0
"""Frames per second of a video with a single frame."""
MAX_PART_IMAGES = 512
"""Images in a part of the ring: the parent resizes a part at once, maybe to larger images."""


class _StderrCapture:
    """Captures what native libraries print during a job: often their only sign of damage."""

    def __init__(self) -> None:
        self._file = os.memfd_create("stderr")
        os.dup2(self._file, 2)

    def take(self) -> str:
        """Return the text printed since the last call, without harmless warnings."""
        size = os.lseek(self._file, 0, os.SEEK_END)
        text = os.pread(self._file, min(size, MAX_STDERR_BYTES), 0).decode(errors="replace")
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return filter_stderr(text)[:MAX_STDERR_CHARACTERS]


def filter_stderr(text: str) -> str:
    """Remove warnings about undamaged images: an odd colour profile, an unknown field."""
    lines = text.splitlines()
    return "\n".join(line for line in lines if not HARMLESS_WARNINGS.search(line)).strip()


class _Progress:
    """Sends the progress of a job to the parent, which takes silence for a hang."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._last_sent = 0.0

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now - self._last_sent >= PROGRESS_SECONDS:
            self._last_sent = now
            send(self._channel, {"progress": count})


def _index(job: Message, progress: _Progress) -> Message:
    if job["kind"] == "images":
        index = read_image_index(job["location"], job["image_fps"], job["max_pixels"], progress)
    else:
        with _utf8_path(job["location"]) as location:
            if is_animated_webp(read_head(Path(location))):
                return {"index": read_webp_index(location, job["max_pixels"]).to_json()}
            index = read_index(location, job["max_pixels"], progress, job["image_fps"])
    return {"index": index.to_json()}


@contextlib.contextmanager
def _utf8_path(location: str) -> Iterator[str]:
    """Give a path that every library can open: not all of them accept bytes that are not UTF-8."""
    try:
        location.encode("utf-8")
        yield location
    except UnicodeEncodeError:
        descriptor = os.open(location, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)


class _RingWriter:
    """
    Writes the images of a job to the ring buffer, in parts, and waits where the ring is full.

    When the context ends, the parent has released all parts, and all its messages are read.
    """

    def __init__(self, channel: socket.socket, view: mmap.mmap, size: tuple[int, int]) -> None:
        self._channel = channel
        self._images = as_ring(view, size)
        self._part = max(1, min(MAX_PART_IMAGES, len(self._images) // RING_PARTS))
        self._pending_frames: list[int] = []
        """Frame positions of the images that are written and not yet announced."""
        self._written = self._announced = self._released = 0

    def __enter__(self) -> _RingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        while self._released < self._announced:
            self._wait_for_release()

    def put(self, image: Images, frame_index: int) -> None:
        """Write one image, (h, w, 3)."""
        count = len(self._images)
        while self._written - self._released >= count:
            self._wait_for_release()
        self._images[self._written % count] = image
        self._pending_frames.append(frame_index)
        self._written += 1
        if len(self._pending_frames) >= self._part:
            self.announce()

    def announce(self) -> None:
        """Let the parent read the images that are written."""
        if self._pending_frames:
            send(self._channel, {"filled": self._announced, "frames": self._pending_frames})
            self._announced, self._pending_frames = self._written, []

    def _wait_for_release(self) -> None:
        try:
            self._released = receive(self._channel)[0]["free"]
        except EOFError:
            sys.exit()  # the parent ended


def _decode(job: Message, index: VideoIndex, ring: _RingWriter, progress: _Progress) -> Message:
    if index.format == "images":  # their reader opens any file name
        with ring:
            return _decode_file(job["location"], job, index, ring, progress)
    with _utf8_path(job["location"]) as location, ring:
        return _decode_file(location, job, index, ring, progress)


def _decode_file(
    location: str, job: Message, index: VideoIndex, ring: _RingWriter, progress: _Progress
) -> Message:
    plan = SamplePlan(index, Sampling(**job["sampling"]), job["start"], job["stop"], job["context"])
    by_order = job["by_order"]
    shots = _Shots(plan) if job.get("shots", False) else None
    start = _start_ticks(plan, by_order)
    request = Request(location, index, start, plan.wants, all_frames=shots is not None)
    reader = READERS[job["reader"]](request)
    selector = Selector(plan, by_order=by_order, watch=shots.watch if shots else None)
    height, width = job["size"]
    sample_index: list[int] = []
    frame_index: list[int] = []
    pts_seconds: list[float] = []
    full = False
    image: Images | None = None
    for sample in selector.select(_with_progress(reader, progress)):
        if len(frame_index) == job["capacity"]:
            full = True
            break
        if image is None or sample.frame_index != frame_index[-1]:
            image = downscale(sample.rgb, (height, width))
        ring.put(image, sample.frame_index)
        sample_index.append(sample.number)
        frame_index.append(sample.frame_index)
        pts_seconds.append(sample.pts_seconds)
    ring.announce()
    counts = selector.counts
    damaged = counts.damaged + sum(map(plan.accounts_for, reader.failed_ticks))
    encrypted = (damaged or reader.problem) and is_encrypted(location)
    return {
        "sample_index": sample_index,
        "frame_index": frame_index,
        "pts_seconds": pts_seconds,
        "decoded": counts.decoded,
        "duplicated": counts.duplicated,
        "damaged": damaged,
        "late": counts.late,
        "backwards": counts.backwards,
        "problem": ENCRYPTED if encrypted else reader.problem,
        "full": full,
        **({"shots": shots.finish()} if shots else {}),
    }


class _Shots:
    """Finds the shots of a chunk while it is decoded."""

    def __init__(self, plan: SamplePlan) -> None:
        index, sampling = plan.index, plan.sampling
        rate = 1 / index.frame_seconds if index.frame_seconds else DEFAULT_RATE
        # images that are no samples are not read
        self._skips = index.format == "images" and not plan.takes_all
        if self._skips:
            rate = sampling.fps or rate / (sampling.every or 1)
        self._plan = plan
        self._detector = ShotDetector(rate, starts_video=plan.start == 0)

    def watch(self, frame: TimedFrame, frame_index: int, seconds: float) -> None:
        if not self._skips or self._plan.wants(frame_index):
            self._detector.add(frame.small(), frame_index, seconds)

    def finish(self) -> Message:
        ends = self._plan.stop >= self._plan.num_samples
        return {**self._detector.finish(ends_video=ends), "exact": not self._skips}


def _start_ticks(plan: SamplePlan, by_order: bool) -> int | None:
    if plan.first == 0 or by_order or not plan.index.seekable:
        return None
    return int(plan.index.pts[plan.frame_indices()[0]])


def _with_progress(reader: Reader, progress: _Progress) -> Iterator[Frame]:
    for number, frame in enumerate(reader.frames()):
        yield frame
        progress(number + 1)


class _Worker:
    """Runs jobs; keeps the index of the last video and the shared memory between them."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._indexes: dict[str, VideoIndex] = {}
        self._memory: mmap.mmap | None = None

    def map_memory(self, descriptor: int) -> None:
        """Map the memory of the ring, for this job and those that follow."""
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        os.close(descriptor)

    def answer(self, job: Message) -> Message:
        """Run a job; errors become answers."""
        try:
            return _with_retries(lambda: self._run(job))
        except VideoError as error:
            return {"status": error.status, "message": str(error)}
        except ReaderRefused as error:
            return {"refused": str(error)}
        except MemoryError:
            return {
                "status": "out_of_memory",
                "message": "decoding needed more memory than allowed",
            }
        except OSError as error:
            return {"status": "unreadable", "message": f"cannot be read: {io_error_text(error)}"}
        except Exception as error:  # unknown error of a library: the next reader may not have it
            return {"refused": f"{type(error).__name__}: {error}"}

    def _run(self, job: Message) -> Message:
        progress = _Progress(self._channel)
        if job["do"] == "index":
            return _index(job, progress)
        if job["index"] is not None:
            self._indexes = {job["location"]: VideoIndex.from_json(job["index"])}
        assert self._memory is not None
        ring = _RingWriter(self._channel, self._memory, tuple(job["size"]))
        return _decode(job, self._indexes[job["location"]], ring, progress)


def _with_retries(run: Callable[[], Message]) -> Message:
    """Run a job, again after an I/O error that may pass."""
    for delay in RETRY_DELAYS_SECONDS:
        try:
            return run()
        except OSError as error:
            if error.errno not in TRANSIENT_ERRNOS:
                raise
            time.sleep(delay)
    return run()


def _set_limits(memory_bytes: int) -> None:
    # PR_SET_PDEATHSIG: the kernel kills this process with its parent, even in a native hang
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _keep_freed_memory() -> None:
    """Reuse freed memory for the next frames: the kernel fills new pages with zeros first."""
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, KEEP_FREED_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, KEEP_FREED_BYTES)


def _use_batch_scheduling() -> None:
    """Run longer between two context switches with the engine: each leaves the caches cold."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _configure_libraries() -> None:
    import av.logging
    import cv2

    cv2.setNumThreads(1)
    av.logging.set_level(None)


def main() -> None:
    """Run jobs from the socket whose file descriptor is the first argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    _set_limits(int(sys.argv[2]))
    _keep_freed_memory()
    _use_batch_scheduling()
    _configure_libraries()
    stderr = _StderrCapture()
    worker = _Worker(channel)
    send(channel, {"ready": os.getpid()})
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, memory = receive(channel)
            stderr.take()
            if memory is not None:
                worker.map_memory(memory)
            send(channel, {**worker.answer(job), "decoder_stderr": stderr.take()})


if __name__ == "__main__":
    main()
