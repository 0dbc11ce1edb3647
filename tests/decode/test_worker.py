from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.decode import worker as module
from pipeline.decode.protocol import receive, send
from pipeline.decode.shared_memory import RingBuffer
from pipeline.errors import VideoError
from tests.decode.decoding import numbers, read_with
from tests.videos import read_number, write_video

ROOT = Path(__file__).resolve().parents[2]
EVERY = {"fps": None, "every": 1}


@pytest.fixture
def ends():
    """Both ends of a channel."""
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(10)
        right.settimeout(10)
        yield left, right


@pytest.mark.parametrize(
    ("text", "filtered"),
    [
        ("", ""),
        ("libpng warning: iCCP: known incorrect sRGB profile\n", ""),
        (
            "[ WARN:0@0.018] global grfmt_tiff.cpp:123 TIFF_Warning TIFFReadDirectory: "
            "Unknown field with tag 65111 (0xfe57) encountered\n",
            "",
        ),
        ("libpng error: IDAT: CRC error", "libpng error: IDAT: CRC error"),
        ("Corrupt JPEG data: premature end", "Corrupt JPEG data: premature end"),
        ("libpng warning: a\nCorrupt JPEG data\nlibpng warning: b\n", "Corrupt JPEG data"),
        ("TIFFFillStrip: Read error at scanline 4", "TIFFFillStrip: Read error at scanline 4"),
    ],
)
def test_warnings_about_undamaged_images_are_removed(text, filtered):
    assert module.filter_stderr(text) == filtered


@contextlib.contextmanager
def worker(memory_bytes=4 << 30):
    """A decode process, and the parent's end of its channel."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pipeline.decode.worker",
                    str(theirs.fileno()),
                    str(memory_bytes),
                ],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
            )
        ours.settimeout(60)
        with process:
            assert receive(ours) == ({"ready": process.pid}, None)
            yield process, ours
            process.kill()


def ask(channel, job, descriptor=None, read=None):
    """The answer to a job, and the number of progress messages before it."""
    send(channel, job, descriptor)
    num_progress = 0
    while True:
        answer, _ = receive(channel)
        if "filled" in answer:
            if read is not None:
                read(answer["filled"], answer["frames"])
            send(channel, {"free": answer["filled"] + len(answer["frames"])})
        elif "progress" in answer:
            num_progress += 1
        else:
            return answer, num_progress


def index_job(path, **more):
    return {
        "do": "index",
        "location": str(path),
        "kind": "file",
        "image_fps": None,
        "max_pixels": 10**6,
        **more,
    }


class TestProcess:
    @pytest.fixture(scope="class")
    @classmethod
    def channel(cls):
        with worker() as (_, channel):
            yield channel

    def decode_job(self, path, index, **more):
        return {
            "do": "decode",
            "reader": "pyav",
            "location": str(path),
            "index": index,
            "sampling": {"fps": None, "every": 2},
            "start": 0,
            "stop": 5,
            "context": 0,
            "size": [8, 16],
            "capacity": 8,
            "by_order": False,
            **more,
        }

    def test_indexes_and_decodes(self, channel, tmp_path):
        path = write_video(tmp_path / "a.mp4", 10, size=(128, 64))
        index = ask(channel, index_job(path))[0]["index"]
        ring = RingBuffer(1 << 16)
        announced = []

        answer, _ = ask(
            channel,
            self.decode_job(path, index),
            ring.descriptor,
            lambda *message: announced.append(message),
        )

        assert answer == {
            "sample_index": [0, 1, 2, 3, 4],
            "frame_index": [0, 2, 4, 6, 8],
            "pts_seconds": pytest.approx([0, 2 / 30, 4 / 30, 6 / 30, 8 / 30]),
            "decoded": 10,
            "duplicated": 0,
            "damaged": 0,
            "late": 0,
            "backwards": False,
            "problem": "",
            "full": False,
            "decoder_stderr": "",
        }
        assert announced == [(0, [0, 2, 4, 6, 8])]
        (images,) = ring.parts((8, 16), 0, 6)
        assert (images[:5] > 0).mean() > 0.9
        assert not images[5].any()
        ring.close()

    def test_a_small_ring_is_reused(self, channel, tmp_path):
        path = write_video(tmp_path / "a.mp4", 30)
        index = ask(channel, index_job(path))[0]["index"]
        size = [72, 96]
        ring = RingBuffer(7 * math.prod(size) * 3 + 1)
        images, frames = [], []

        def read(start, numbers):
            assert len(numbers) == 1, "a fourth of the ring"
            parts = ring.parts(tuple(size), start, start + len(numbers))
            images.extend(np.concatenate(parts))
            frames.extend(numbers)

        job = self.decode_job(path, index, sampling=EVERY, stop=30, size=size, capacity=40)
        answer, _ = ask(channel, job, ring.descriptor, read)

        assert frames == answer["frame_index"] == list(range(30))
        assert [read_number(image) for image in images] == frames
        ring.close()

    def test_memory_is_not_overwritten_before_its_release(self, channel, tmp_path):
        path = write_video(tmp_path / "a.mp4", 30)
        index = ask(channel, index_job(path))[0]["index"]
        size = [72, 96]
        ring = RingBuffer(8 * math.prod(size) * 3)
        job = self.decode_job(path, index, sampling=EVERY, stop=30, size=size, capacity=40)
        send(channel, job, ring.descriptor)
        announced = []
        while len(announced) < 4:
            message, _ = receive(channel)
            announced += [message] if "filled" in message else []
        time.sleep(0.3)  # time to continue, if it did not wait

        (images,) = ring.parts(tuple(size), 0, 8)

        assert [read_number(image) for image in images] == list(range(8))
        for message in announced:
            send(channel, {"free": message["filled"] + len(message["frames"])})
        while "sample_index" not in message:
            if "filled" in message and message not in announced:
                send(channel, {"free": message["filled"] + len(message["frames"])})
            message, _ = receive(channel)
        assert message["frame_index"] == list(range(30))
        ring.close()

    def test_a_part_of_the_ring_has_a_maximum_number_of_images(self, ends):
        """Resized to the input of a backbone they would take gigabytes."""
        ours, theirs = ends
        ring = module._RingWriter(theirs, mmap.mmap(-1, 1 << 16), (1, 1))
        for number in range(module.MAX_PART_IMAGES + 1):
            ring.put(np.zeros((1, 1, 3), np.uint8), number)

        assert receive(ours)[0] == {"filled": 0, "frames": list(range(module.MAX_PART_IMAGES))}

    def test_a_failed_job_leaves_no_unread_message(self, channel, tmp_path):
        """A release message must not be taken for the next job."""
        path = write_video(tmp_path / "a.mp4", 30, size=(128, 64))
        index = ask(channel, index_job(path))[0]["index"]
        ring = RingBuffer(8 * 64 * 128 * 3)
        wrong = {**index, "pts": index["pts"][:20]}
        job = self.decode_job(
            path, wrong, reader="decord", sampling=EVERY, stop=20, size=[64, 128], capacity=40
        )

        answer, _ = ask(channel, job, ring.descriptor)

        assert answer["refused"] == "Decord gave more frames than the container holds"
        assert ask(channel, index_job(path))[0]["index"] == index
        ring.close()

    def test_keeps_the_index_for_the_next_job_on_the_same_file(self, channel, tmp_path):
        path = write_video(tmp_path / "a.mp4", 10, size=(128, 64))
        index = ask(channel, index_job(path))[0]["index"]
        ring = RingBuffer(1 << 16)

        first, _ = ask(channel, self.decode_job(path, index), ring.descriptor)
        again, _ = ask(channel, self.decode_job(path, None), ring.descriptor)

        assert first == again
        ring.close()

    def test_reports_more_samples_than_the_capacity(self, channel, tmp_path):
        path = write_video(tmp_path / "a.mp4", 10, size=(128, 64))
        index = ask(channel, index_job(path))[0]["index"]
        ring = RingBuffer(1 << 16)

        answer, _ = ask(channel, self.decode_job(path, index, capacity=3), ring.descriptor)

        assert answer["full"]
        assert answer["sample_index"] == [0, 1, 2]
        ring.close()

    def test_sends_progress(self, channel, tmp_path):
        """The parent takes silence for a hang."""
        path = write_video(tmp_path / "a.mp4", 10, size=(128, 64))
        index = ask(channel, index_job(path))[0]["index"]
        ring = RingBuffer(1 << 16)

        _, num_progress = ask(channel, self.decode_job(path, index), ring.descriptor)

        assert num_progress >= 1
        ring.close()

    def test_progress_is_sent_at_intervals(self, ends, monkeypatch):
        ours, theirs = ends
        clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(module, "time", clock)
        progress = module._Progress(theirs)

        for count in range(10):
            progress(count)
            clock.now += module.PROGRESS_SECONDS * 0.4
        theirs.close()

        assert [receive(ours)[0]["progress"] for _ in range(4)] == [0, 3, 6, 9]
        with pytest.raises(EOFError):
            receive(ours)

    def test_an_unusable_file_gets_a_status(self, channel, tmp_path):
        answer, _ = ask(channel, index_job(tmp_path / "gone.mp4"))

        assert answer == {
            "status": "unreadable",
            "message": "cannot be read: No such file or directory",
            "decoder_stderr": "",
        }

    def test_a_file_deleted_between_jobs_gets_a_status(self, channel, tmp_path):
        path = write_video(tmp_path / "a.mp4", 10, size=(128, 64))
        index = ask(channel, index_job(path))[0]["index"]
        path.unlink()
        ring = RingBuffer(1 << 16)

        answer, _ = ask(channel, self.decode_job(path, index), ring.descriptor)

        assert answer["status"] == "unreadable"
        ring.close()

    def test_an_unexpected_exception_ends_only_the_job(self, channel, tmp_path):
        answer, _ = ask(channel, {"do": "index", "location": str(tmp_path)})

        assert answer["refused"] == "KeyError: 'kind'"
        assert ask(channel, index_job(tmp_path))[0]["status"] == "unreadable"

    def test_stderr_of_a_job_is_not_reported_with_the_next(self, channel, tmp_path):
        path = write_video(tmp_path / "a.mp4", 10, size=(128, 64))
        index = ask(channel, index_job(path))[0]["index"]
        whole = path.read_bytes()
        path.write_bytes(b"no video any more")
        ring = RingBuffer(1 << 16)
        job = self.decode_job(path, index, reader="decord")

        complaining, _ = ask(channel, job, ring.descriptor)
        path.write_bytes(whole)
        quiet, _ = ask(channel, job, ring.descriptor)

        assert "Invalid data found" in complaining["decoder_stderr"]
        assert quiet["decoder_stderr"] == ""
        assert quiet["decoded"] == 10
        ring.close()

    def test_file_descriptors_are_closed(self, tmp_path):
        with worker() as (process, channel):
            path = write_video(tmp_path / "a.mp4", 4, size=(128, 64))
            index = ask(channel, index_job(path))[0]["index"]
            ring = RingBuffer(1 << 16)
            job = self.decode_job(path, index)
            ask(channel, job, ring.descriptor)
            before = len(os.listdir(f"/proc/{process.pid}/fd"))
            for _ in range(5):
                ask(channel, job, ring.descriptor)

            assert len(os.listdir(f"/proc/{process.pid}/fd")) == before
            ring.close()


class TestLife:
    def test_ends_when_the_channel_closes(self):
        with worker() as (process, channel):
            channel.close()

            assert process.wait(20) == 0

    def test_ignores_ctrl_c(self, tmp_path):
        with worker() as (process, channel):
            process.send_signal(signal.SIGINT)

            assert ask(channel, index_job(tmp_path))[0]["status"] == "unreadable"

    def test_memory_is_limited(self):
        with worker(memory_bytes=1 << 30) as (process, _):
            limits = Path(f"/proc/{process.pid}/limits").read_text()

        [line] = [line for line in limits.splitlines() if line.startswith("Max data size")]
        assert line.split()[3:5] == [str(1 << 30)] * 2

    def test_uses_batch_scheduling_and_keeps_its_niceness(self):
        with worker() as (process, _):
            assert os.sched_getscheduler(process.pid) == os.SCHED_BATCH
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.nice(0)

    def test_does_not_load_torch(self):
        """Decord crashes in a process with torch, and each process would start slowly."""
        code = "import pipeline.decode.worker, sys; print('torch' in sys.modules)"
        completed = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )

        assert completed.stdout == "False\n"


@pytest.mark.parametrize(
    "name",
    [
        b"with spaces.mp4",
        b'quote\'s "double".mp4',
        b"new\nline.mp4",
        b"-leading dash.mp4",
        "🎬 ünïcode.mp4".encode(),
        b"caf\xe9 latin.mp4",
        b"percent %d %05d %s.mp4",
        b"semi;colon|pipe&and.mp4",
        b"colon:in name.mp4",
        b"http:%2f%2fno.mp4",
        b"back\\slash.mp4",
        b"[brackets]{braces}*.mp4",
    ],
)
@pytest.mark.parametrize("reader", ["decord", "opencv", "pyav"])
def test_any_file_name(name, reader, tmp_path, process):
    path = tmp_path / os.fsdecode(name)
    write_video(tmp_path / "plain.mp4", 5, size=(128, 64)).rename(path)

    answer, images = read_with(process, reader, path)

    assert numbers(images) == [0, 1, 2, 3, 4]
    assert np.isclose(answer["pts_seconds"][-1], 4 / 30)


class TestPatience:
    """I/O errors may be transient."""

    @pytest.fixture(autouse=True)
    def _briefly(self, monkeypatch):
        monkeypatch.setattr(module, "RETRY_DELAYS_SECONDS", (0.0, 0.0))

    def answer(self, monkeypatch, *errors):
        left = list(errors)

        def run(*_):
            if left:
                raise left.pop(0)
            return {"index": {}}

        monkeypatch.setattr(module._Worker, "_run", run)
        return module._Worker(None).answer({}), left

    def test_a_transient_error_is_retried(self, monkeypatch):
        error = OSError(errno.EIO, "Input/output error")

        answer, left = self.answer(monkeypatch, error, error)

        assert (answer, left) == ({"index": {}}, [])

    def test_a_lasting_io_error_is_unreadable(self, monkeypatch):
        error = OSError(errno.EIO, "Input/output error")

        answer, _ = self.answer(monkeypatch, error, error, error)

        assert answer == {"status": "unreadable", "message": "cannot be read: Input/output error"}

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (PermissionError(errno.EACCES, "Permission denied"), "unreadable"),
            (VideoError("not_video", "no container"), "not_video"),
            (MemoryError(), "out_of_memory"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_permanent_error_is_not_retried(self, monkeypatch, error, status):
        answer, left = self.answer(monkeypatch, error, error)

        assert answer["status"] == status
        assert left == [error]
