"""
The decode process: one job at a time, over a socket, until the parent is gone.

Run as `python -m pipeline.decode.worker FD`. It is a process of its own because native decoders
hang and crash: this one can be killed at any time and nothing is lost but the job at hand.
Messages are JSON behind their length; pictures go into shared memory that comes with the job.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import re
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.config import Sampling
from pipeline.decode.images import read_image_index
from pipeline.decode.pictures import shrink
from pipeline.decode.probe import read_index
from pipeline.decode.readers import READERS, Frame, Reader, ReaderRefused, Request
from pipeline.decode.sampling import SamplePlan, Selector
from pipeline.errors import VideoError
from pipeline.records import VideoIndex

PROGRESS_SECONDS = 0.2
PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN})
"""What a disk or a network drive says that may say otherwise in a moment."""
PAUSES_SECONDS = (0.5, 1.5)
"""Before the second and the third attempt at a file that could not be read."""
HARMLESS = re.compile(r"libpng warning: |TIFF.*Unknown field with tag")
"""What OpenCV says of images from photo editors; a damaged PNG is an error, and no picture."""
COMPLAINTS_BYTES, COMPLAINT_CHARACTERS = 1 << 20, 4096
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of `mallopt`."""
MADV_POPULATE_READ = 22
"""Of `madvise`; maps pages that exist sixteen at a time, which ..._WRITE does not."""
KEPT_BYTES = 64 << 20
NICENESS = 5
HEADER = struct.Struct("!I")
Message = dict[str, Any]


def send(channel: socket.socket, message: Message, descriptor: int | None = None) -> None:
    """Send one message, and an open file with it if given."""
    data = json.dumps(message).encode()
    data = HEADER.pack(len(data)) + data
    if descriptor is not None:
        socket.send_fds(channel, [data[: HEADER.size]], [descriptor])
        data = data[HEADER.size :]
    channel.sendall(data)


def receive(channel: socket.socket) -> tuple[Message, int | None]:
    """
    Wait for one message, and the open file that came with it.

    Raises:
        EOFError: the other side is gone.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, HEADER.size, 1)
    head += _exactly(channel, HEADER.size - len(head))
    (length,) = HEADER.unpack(head)
    return json.loads(_exactly(channel, length)), descriptors[0] if descriptors else None


def _exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        count = channel.recv_into(view[done:])
        if not count:
            raise EOFError("the other side closed the channel")
        done += count
    return bytes(data)


class _Complaints:
    """What native libraries print while a job runs: often their only sign of damage."""

    def __init__(self) -> None:
        self._file = os.memfd_create("complaints")
        os.dup2(self._file, 2)

    def take(self) -> str:
        size = os.lseek(self._file, 0, os.SEEK_END)
        text = os.pread(self._file, min(size, COMPLAINTS_BYTES), 0).decode(errors="replace")
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return serious(text)[:COMPLAINT_CHARACTERS]


def serious(complaints: str) -> str:
    """Leave out what is said of pictures that are whole: a profile, a field nobody knows."""
    lines = complaints.splitlines()
    return "\n".join(line for line in lines if not HARMLESS.search(line)).strip()


class _Progress:
    """Tells the parent now and then how far a job is: silence is how it knows of a hang."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._told = 0.0

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            send(self._channel, {"progress": count})


def _index(job: Message, progress: _Progress) -> Message:
    if job["kind"] == "images":
        index = read_image_index(job["location"], job["image_fps"], job["max_pixels"])
    else:
        with _openable(job["location"]) as location:
            index = read_index(location, job["max_pixels"], progress)
    return {"index": index.to_json()}


@contextlib.contextmanager
def _openable(location: str) -> Iterator[str]:
    """Give a path that every library can open: not all of them take undecodable bytes."""
    try:
        location.encode("utf-8")
        yield location
    except UnicodeEncodeError:
        descriptor = os.open(location, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)


def _decode(job: Message, index: VideoIndex, memory: int, progress: _Progress) -> Message:
    with _openable(job["location"]) as location:
        return _decode_file(location, job, index, memory, progress)


def _decode_file(
    location: str, job: Message, index: VideoIndex, memory: int, progress: _Progress
) -> Message:
    plan = SamplePlan(index, Sampling(**job["sampling"]), job["start"], job["stop"], job["context"])
    by_order = job["by_order"]
    request = Request(location, index, _start_ticks(plan, by_order), plan.wants)
    reader = READERS[job["reader"]](request)
    selector = Selector(plan, by_order=by_order)
    height, width = job["size"]
    sample_index: list[int] = []
    frame_index: list[int] = []
    pts_seconds: list[float] = []
    full = False
    shape = (job["capacity"], height, width, 3)
    pictures = _pictures(memory, job["offset"], shape, plan.stop - plan.first)
    for sample in selector.select(_counted(reader, progress)):
        if len(frame_index) == job["capacity"]:
            full = True
            break
        pictures[len(frame_index)] = shrink(sample.rgb, (height, width))
        sample_index.append(sample.number)
        frame_index.append(sample.frame_index)
        pts_seconds.append(sample.pts_seconds)
    counts = selector.counts
    return {
        "sample_index": sample_index,
        "frame_index": frame_index,
        "pts_seconds": pts_seconds,
        "decoded": counts.decoded,
        "duplicated": counts.duplicated,
        "damaged": counts.damaged + sum(map(plan.accounts_for, reader.refused)),
        "late": counts.late,
        "backwards": counts.backwards,
        "problem": reader.problem,
        "full": full,
    }


def _start_ticks(plan: SamplePlan, by_order: bool) -> int | None:
    if plan.first == 0 or by_order or not plan.index.seekable:
        return None
    return int(plan.index.pts[plan.frame_indices()[0]])


def _counted(reader: Reader, progress: _Progress) -> Iterator[Frame]:
    for number, frame in enumerate(reader.frames()):
        yield frame
        progress(number + 1)


def _pictures(
    memory: int, offset: int, shape: tuple[int, int, int, int], expected: int
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """
    Map the part of the shared memory that this job may fill, as long as it is looked at.

    Pages of the pictures that are expected come all at once: one by one, as they are written, they
    cost a fifth of the decoding. The room to spare takes no memory unless it is needed.
    """
    page = offset % mmap.ALLOCATIONGRANULARITY
    picture = int(np.prod(shape[1:]))
    length = page + max(1, shape[0] * picture)
    view = mmap.mmap(memory, length, offset=offset - page)
    with contextlib.suppress(OSError):  # before Linux 5.14
        view.madvise(MADV_POPULATE_READ, 0, min(length, page + expected * picture))
    return np.ndarray(shape, np.uint8, buffer=view, offset=page)


def _run(
    job: Message, cache: dict[str, VideoIndex], memory: int | None, progress: _Progress
) -> Message:
    if job["do"] == "index":
        return _index(job, progress)
    if job["index"] is not None:
        cache.clear()
        cache[job["location"]] = VideoIndex.from_json(job["index"])
    assert memory is not None
    return _decode(job, cache[job["location"]], memory, progress)


def _answer(
    job: Message, cache: dict[str, VideoIndex], memory: int | None, progress: _Progress
) -> Message:
    try:
        return _patiently(lambda: _run(job, cache, memory, progress))
    except VideoError as error:
        return {"status": error.status, "message": str(error)}
    except ReaderRefused as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"status": "out_of_memory", "message": "decoding needed more memory than allowed"}
    except OSError as error:
        return {"status": "unreadable", "message": f"cannot be read: {error.strerror or error}"}
    except Exception as error:  # whatever a library throws at a file: the next reader may not
        return {"refused": f"{type(error).__name__}: {error}"}


def _patiently(run: Callable[[], Message]) -> Message:
    """Run a job, again where the file could not be read for a reason that may pass."""
    for pause in PAUSES_SECONDS:
        try:
            return run()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            time.sleep(pause)
    return run()


def _live_and_die_with_parent(memory_bytes: int) -> None:
    # PR_SET_PDEATHSIG: even a decoder that hangs goes when the parent is killed
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _keep_freed_memory() -> None:
    """Take pictures from memory that was used before: fresh pages are filled with zeros first."""
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _give_way() -> None:
    """Let the engine go first: whatever it waits for, decoding is ahead of it in the end."""
    os.nice(NICENESS)


def _quiet_and_single_threaded() -> None:
    import av.logging
    import cv2

    cv2.setNumThreads(1)
    av.logging.set_level(None)


def main() -> None:
    """Serve jobs from the socket whose number is the first argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    _live_and_die_with_parent(int(sys.argv[2]))
    _keep_freed_memory()
    _give_way()
    _quiet_and_single_threaded()
    complaints = _Complaints()
    cache: dict[str, VideoIndex] = {}
    send(channel, {"ready": os.getpid()})
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, memory = receive(channel)
            complaints.take()
            answer = _answer(job, cache, memory, _Progress(channel))
            if memory is not None:
                os.close(memory)
            send(channel, {**answer, "complaint": complaints.take()})


if __name__ == "__main__":
    main()
