"""
The decode process: one job at a time, over a socket, until the parent is gone.

Run as `python -m pipeline.decode.worker FD`. It is a process of its own because native decoders
hang and crash: this one can be killed at any time and nothing is lost but the job at hand.
Messages are JSON behind their length; pictures go into a ring of shared memory, of which the parent
gives back what it has looked at.
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

from pipeline.config import Sampling
from pipeline.decode.container_index import read_index
from pipeline.decode.downscale import shrink
from pipeline.decode.readers import READERS, Frame, Reader, ReaderRefused, Request
from pipeline.decode.sampling import SamplePlan, Selector
from pipeline.decode.shared_memory import as_ring
from pipeline.errors import VideoError
from pipeline.records import Images, VideoIndex
from pipeline.sources.image_sequence import read_image_index

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
PARTS = 4
"""Of a ring: one is looked at while the others are filled."""
PART_PICTURES = 512
"""At most: small ones may be cut to larger ones, all of a part at once."""
KEPT_BYTES = 64 << 20
TURN_NANOSECONDS = 20_000_000
"""On a core that others want too; by default it is 3 ms."""
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call: the C library has no name for it before 2.41."""
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


class _RingWriter:
    """
    The pictures of a job on their way to the parent, in memory that it has to give back.

    The memory is free, and nothing that the parent said is unread, once the block is left.
    """

    def __init__(self, channel: socket.socket, view: mmap.mmap, size: tuple[int, int]) -> None:
        self._channel = channel
        self._pictures = as_ring(view, size)
        self._part = max(1, min(PART_PICTURES, len(self._pictures) // PARTS))
        self._frames: list[int] = []
        """Of the pictures that the parent does not know of yet."""
        self._filled = self._told = self._free = 0

    def __enter__(self) -> _RingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        while self._free < self._told:
            self._await()

    def put(self, picture: Images, frame_index: int) -> None:
        """Hand on one picture, (h, w, 3)."""
        count = len(self._pictures)
        while self._filled - self._free >= count:
            self._await()
        self._pictures[self._filled % count] = picture
        self._frames.append(frame_index)
        self._filled += 1
        if len(self._frames) >= self._part:
            self.tell()

    def tell(self) -> None:
        """Let the parent look at what is filled."""
        if self._frames:
            send(self._channel, {"filled": self._told, "frames": self._frames})
            self._told, self._frames = self._filled, []

    def _await(self) -> None:
        try:
            self._free = receive(self._channel)[0]["free"]
        except EOFError:
            sys.exit()  # the parent is gone


def _decode(job: Message, index: VideoIndex, ring: _RingWriter, progress: _Progress) -> Message:
    with _openable(job["location"]) as location, ring:
        return _decode_file(location, job, index, ring, progress)


def _decode_file(
    location: str, job: Message, index: VideoIndex, ring: _RingWriter, progress: _Progress
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
    for sample in selector.select(_counted(reader, progress)):
        if len(frame_index) == job["capacity"]:
            full = True
            break
        ring.put(shrink(sample.rgb, (height, width)), sample.frame_index)
        sample_index.append(sample.number)
        frame_index.append(sample.frame_index)
        pts_seconds.append(sample.pts_seconds)
    ring.tell()
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


class _Worker:
    """What a decode process keeps from one job to the next."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._indexes: dict[str, VideoIndex] = {}
        self._memory: mmap.mmap | None = None

    def lend(self, descriptor: int) -> None:
        """Map the memory of the ring, for this job and those that follow."""
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        os.close(descriptor)

    def answer(self, job: Message) -> Message:
        """Run a job, whatever comes of it."""
        try:
            return _patiently(lambda: self._run(job))
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
            return {"status": "unreadable", "message": f"cannot be read: {error.strerror or error}"}
        except Exception as error:  # whatever a library throws at a file: the next reader may not
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


def _take_long_turns() -> None:
    """Compute for longer at a time: whenever decoder and engine change places, caches are cold."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # of `struct sched_attr`: size, policy, flags, niceness, priority, turn, and two for deadlines;
    # before Linux 6.12 the turn is ignored
    turn = TURN_NANOSECONDS
    wanted = struct.pack("=IIQiIQQQ", 48, os.SCHED_BATCH, 0, os.nice(0), 0, turn, 0, 0)
    if number := SCHED_SETATTR.get(os.uname().machine):
        ctypes.CDLL(None).syscall(number, 0, wanted, 0)


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
    _take_long_turns()
    _quiet_and_single_threaded()
    complaints = _Complaints()
    worker = _Worker(channel)
    send(channel, {"ready": os.getpid()})
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job, memory = receive(channel)
            complaints.take()
            if memory is not None:
                worker.lend(memory)
            send(channel, {**worker.answer(job), "complaint": complaints.take()})


if __name__ == "__main__":
    main()
