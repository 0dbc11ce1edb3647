from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from pipeline.config import DecodeOptions
from pipeline.decode import process_pool as pool_module
from pipeline.decode.fallback import index_video
from pipeline.decode.process_pool import (
    DECODE_PRIORITY,
    INDEX_PRIORITY,
    DecodePool,
    DecodeProcess,
    JobTimeout,
    PoolStopped,
    StartFailed,
)
from pipeline.errors import DecoderLost, MachineError, VideoError
from tests.decode.decoding import as_video, decode, numbers, read_with
from tests.videos import write_video

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
    return write_video(tmp_path / "a.mp4", 10, size=(128, 64))


def job(path):
    return {
        "do": "index",
        "kind": "file",
        "location": str(path),
        "image_fps": None,
        "max_pixels": 10**9,
    }


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


class TestDecodeProcess:
    def test_is_started_by_the_first_job_and_reused(self, start_process, path):
        process = start_process()
        assert process.pid is None

        process.ask(job(path))
        pid = process.pid
        process.ask(job(path))

        assert process.pid == pid
        assert alive(pid)

    def test_kill_ends_the_process(self, start_process, path):
        process = start_process()
        process.ask(job(path))
        pid = process.pid

        process.kill()

        assert not alive(pid)
        assert process.pid is None
        process.kill()

    def test_a_stopped_process_is_killed(self, start_process, set_options, path):
        process = start_process()
        process.ask(job(path))
        pid = process.pid
        os.kill(pid, signal.SIGSTOP)
        set_options(process, frame_timeout_seconds=0.5)

        started = time.monotonic()
        with pytest.raises(JobTimeout, match=r"^no frame for 0\.5 s \(--frame-timeout\)$"):
            process.ask(job(path))

        assert time.monotonic() - started >= 0.5
        assert not alive(pid)
        set_options(process, frame_timeout_seconds=20)
        assert process.ask(job(path))["index"]["packets"] == 10

    def test_a_process_that_does_not_read_its_channel_is_killed(
        self, start_process, set_options, path
    ):
        """A message larger than the buffers of a socket blocks until it is read."""
        process = start_process()
        process.ask(job(path))
        pid = process.pid
        os.kill(pid, signal.SIGSTOP)
        set_options(process, frame_timeout_seconds=0.5)

        with pytest.raises(JobTimeout, match="does not read its channel"):
            process.ask({**job(path), "ballast": "x" * (8 << 20)})

        assert not alive(pid)

    def test_a_job_that_hangs_is_killed(self, start_process, set_options, pipe, path):
        process = start_process(frame_timeout_seconds=0.5)

        with pytest.raises(JobTimeout, match=r"no frame for 0\.5 s"):
            process.ask(job(pipe))

        set_options(process, frame_timeout_seconds=20)
        assert process.ask(job(path))["index"]["packets"] == 10

    def test_a_decoder_that_hangs_is_killed(self, start_process, set_options, fake_decord, path):
        fake_decord("time.sleep(60)")
        process = start_process()
        index = index_video(process, as_video(path))
        set_options(process, frame_timeout_seconds=0.5)

        with pytest.raises(JobTimeout, match=r"no frame for 0\.5 s"):
            read_with(process, "decord", path, index=index)

    def test_a_slow_decoder_exceeds_the_time_limit(
        self, start_process, set_options, fake_decord, tmp_path
    ):
        """Each frame comes within its timeout, but all together exceed theirs."""
        fake_decord(
            "time.sleep(0.25);"
            "return types.SimpleNamespace(asnumpy=lambda: numpy.zeros((64, 128, 3), 'uint8'))"
        )
        process = start_process()
        path = write_video(tmp_path / "a.mp4", 300, size=(128, 64))
        index = index_video(process, as_video(path))
        set_options(process, video_timeout_seconds=2.5)
        calls = []
        process.on_progress = lambda: calls.append(time.monotonic())

        with pytest.raises(JobTimeout, match=r"^took longer than 2\.5 s \(--video-timeout\)$"):
            read_with(process, "decord", path, index=index)

        assert process.pid is None
        assert len(calls) >= 3

    def test_the_time_limit_is_for_one_job(self, start_process, path, monkeypatch):
        process = start_process(video_timeout_seconds=10)
        process.start()
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(pool_module, "time", clock)

        for _ in range(3):
            clock.now += 6
            assert process.ask(job(path))["index"]["packets"] == 10

    def test_the_time_limit_grows_with_the_number_of_frames(self, start_process, pipe):
        """A file that is not seekable is read from its start for each of its chunks."""
        process = start_process(video_timeout_seconds=0.2)

        for frames, seconds in [(30_000, "0.2"), (90_000, "0.6")]:
            with pytest.raises(JobTimeout, match=rf"^took longer than {seconds} s"):
                process.ask({**job(pipe), "frames": frames})

    def test_errors_with_undecodable_names_are_escaped(self, start_process, fake_decord, path):
        """Libraries repeat file names that are not UTF-8 in their errors."""
        fake_decord(r"raise ValueError('caf\udce9')")

        answer, _ = read_with(start_process(), "decord", path)

        assert answer["refused"] == r"ValueError: caf\udce9"

    def test_an_error_after_many_warnings_is_kept(self, start_process, fake_decord, path):
        fake_decord(r"os.write(2, b'libpng warning: x\n' * 1000 + b'trouble'); raise StopIteration")

        answer, _ = read_with(start_process(), "decord", path)

        assert answer["decoder_stderr"] == "trouble"

    def test_a_process_killed_from_outside_is_restarted(self, start_process, path):
        process = start_process()
        process.ask(job(path))
        os.kill(process.pid, signal.SIGKILL)

        with pytest.raises(DecoderLost, match=r"^the decode process was ended by signal 9$"):
            process.ask(job(path))

        assert process.ask(job(path))["index"]["packets"] == 10

    def test_a_process_killed_during_a_job_is_restarted(self, start_process, pipe, path):
        process = start_process()
        process.ask(job(path))
        threading.Timer(0.3, os.kill, (process.pid, signal.SIGKILL)).start()

        with pytest.raises(DecoderLost, match="ended by signal 9") as caught:
            process.ask(job(pipe))

        assert not isinstance(caught.value, JobTimeout)
        assert process.ask(job(path))["index"]["packets"] == 10

    @pytest.mark.parametrize(
        ("crash", "message"),
        [
            ("os.abort()", "was ended by signal 6"),
            ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by signal 11"),
            ("os._exit(3)", "ended with code 3"),
        ],
    )
    def test_a_decoder_that_crashes(self, start_process, fake_decord, path, crash, message):
        fake_decord(crash)
        process = start_process()

        with pytest.raises(DecoderLost, match=message):
            read_with(process, "decord", path)

        assert numbers(read_with(process, "pyav", path)[1]) == list(range(10))

    def test_a_process_that_cannot_start(self, start_process, path, monkeypatch):
        monkeypatch.setattr(pool_module, "sys", type("sys", (), {"executable": "/bin/false"}))

        with pytest.raises(StartFailed, match=r"could be started: .* ended with code 1$"):
            start_process().ask(job(path))

    def test_a_failed_start_is_a_machine_error(self):
        """It would happen with every video, so it is not a property of one."""
        assert issubclass(StartFailed, MachineError)
        assert not issubclass(StartFailed, DecoderLost)

    def test_a_start_without_free_file_descriptors(self, start_process, path, monkeypatch):
        """The next job starts the process."""
        start = subprocess.Popen
        full = [OSError(errno.EMFILE, "Too many open files")]

        def sometimes(*args, **options):
            if full:
                raise full.pop()
            return start(*args, **options)

        monkeypatch.setattr(pool_module.subprocess, "Popen", sometimes)
        process = start_process()

        with pytest.raises(StartFailed, match=r"could be started: .*Too many open files"):
            process.ask(job(path))

        assert process.pid is None
        assert process.ask(job(path))["index"]["packets"] == 10

    def test_a_start_that_never_ends(self, start_process, path, monkeypatch, tmp_path):
        sleeper = tmp_path / "sleeper"
        sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
        sleeper.chmod(0o755)
        monkeypatch.setattr(pool_module, "sys", type("sys", (), {"executable": str(sleeper)}))
        monkeypatch.setattr(pool_module, "START_SECONDS", 0.3)
        process = start_process()

        with pytest.raises(StartFailed, match="could be started: it did not answer in 0 s"):
            process.ask(job(path))

        assert process.pid is None

    def test_an_unusable_file_does_not_end_the_process(self, start_process, path, tmp_path):
        process = start_process()
        process.ask(job(path))
        pid = process.pid

        with pytest.raises(VideoError, match="No such file") as caught:
            process.ask(job(tmp_path / "gone.mp4"))

        assert caught.value.status == "unreadable"
        assert process.pid == pid

    def test_after_stop_no_process_is_started(self, start_process, path):
        process = start_process()
        process.ask(job(path))
        pid = process.pid

        process.stop()

        with pytest.raises(PoolStopped, match="the decode processes were stopped"):
            process.ask(job(path))
        wait_until(lambda: not alive(pid))

    def test_stop_during_a_start(self, start_process, path, monkeypatch):
        """Between the check of the flag and the start there is no process to kill."""
        process = start_process()
        start = subprocess.Popen
        started = []

        def late(*args, **options):
            process.stop()
            started.append(start(*args, **options))
            return started[-1]

        monkeypatch.setattr(pool_module.subprocess, "Popen", late)

        with pytest.raises(PoolStopped):
            process.ask(job(path))
        assert not alive(started[0].pid)


LOW_MEMORY_BYTES = 260 << 20
"""Memory limit in bytes: enough to start, and for small frames."""


class TestMemoryLimit:
    @pytest.fixture(scope="class")
    @classmethod
    def huge(cls, tmp_path_factory):
        """Two frames of 6000 × 6000 pixels: 54 MB each as YUV, 108 MB as RGB."""
        path = tmp_path_factory.mktemp("huge") / "a.avi"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("mjpeg", rate=30)
            stream.width, stream.height, stream.pix_fmt = 6000, 6000, "yuvj420p"
            grey = np.full((9000, 6000), 90, np.uint8)
            for _ in range(2):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "yuvj420p")))
            output.mux(stream.encode())
        return path

    def test_a_frame_that_exceeds_the_memory_limit(self, start_process, huge, path):
        process = start_process(memory_bytes=LOW_MEMORY_BYTES, reader="pyav")

        report = decode(process, huge).report

        assert report.status in ("out_of_memory", "decode_crash")
        assert report.frames_decoded == 0
        assert "pyav: decoding needed more memory than allowed" in report.attempts
        assert decode(process, path).report.status == "ok"

    def test_a_frame_within_the_memory_limit(self, start_process, huge):
        report = decode(start_process(reader="pyav"), huge).report

        assert (report.status, report.frames_decoded) == ("ok", 2)

    def test_a_process_without_memory_is_restarted(self, start_process, huge, path):
        """Memory that a decoder still holds would be missing in the next job."""
        process = start_process(memory_bytes=LOW_MEMORY_BYTES)
        index = index_video(process, as_video(huge))
        pid = process.pid

        with pytest.raises(VideoError, match="more memory than allowed") as caught:
            read_with(process, "pyav", huge, index=index)

        assert caught.value.status == "out_of_memory"
        assert not alive(pid)
        assert numbers(read_with(process, "pyav", path)[1]) == list(range(10))


class TestDecodePool:
    def test_runs_jobs_on_all_processes(self, path):
        both = threading.Barrier(2, timeout=30)

        def run(process: DecodeProcess):
            both.wait()
            process.ask(job(path))
            return process.pid

        with DecodePool(DecodeOptions(workers=2)) as pool:
            futures = [pool.submit(run) for _ in range(4)]
            pids = {future.result(60) for future in futures}
            assert pids == set(pool.pids())

        assert len(pids) == 2
        assert not any(map(alive, pids))

    def test_index_jobs_run_before_decode_jobs(self):
        done = []
        go = threading.Event()

        with DecodePool(DecodeOptions(workers=1)) as pool:
            pool.submit(lambda _: go.wait(30))
            futures = [
                pool.submit(lambda _, name=name: done.append(name), order)
                for name, order in [
                    ("a", DECODE_PRIORITY),
                    ("b", INDEX_PRIORITY),
                    ("c", DECODE_PRIORITY),
                    ("d", INDEX_PRIORITY),
                ]
            ]
            go.set()
            for future in futures:
                future.result(30)

        assert done == ["b", "d", "a", "c"]

    def test_errors_are_raised_by_the_future(self, pipe):
        options = DecodeOptions(workers=1, frame_timeout_seconds=0.5)
        with DecodePool(options) as pool:
            hung = pool.submit(lambda process: process.ask(job(pipe)))
            wrong = pool.submit(lambda _: 1 / 0)
            fine = pool.submit(lambda _: 7)

            with pytest.raises(JobTimeout):
                hung.result(30)
            with pytest.raises(ZeroDivisionError):
                wrong.result(30)
            assert fine.result(30) == 7

    def test_a_late_start_message_is_not_taken_for_an_answer(self, path, monkeypatch):
        """The late ready message must not be taken for the answer to the first job."""
        start = subprocess.Popen
        monkeypatch.setattr(pool_module, "START_SECONDS", 0.3)

        def late(command, **options):
            monkeypatch.setattr(pool_module.subprocess, "Popen", start)
            process = start(["/bin/sh", "-c", 'sleep 1; exec "$@"', "sh", *command], **options)
            started.append(process)
            return process

        started = []
        monkeypatch.setattr(pool_module.subprocess, "Popen", late)

        with DecodePool(DecodeOptions(workers=1), eager=True) as pool:
            pool.submit(lambda _: None).result(60)
            monkeypatch.setattr(pool_module, "START_SECONDS", 60.0)
            ask = partial(pool.submit, lambda process: process.ask(job(path)))
            answers = [ask().result(60) for _ in range(2)]

        assert [answer["index"]["packets"] for answer in answers] == [10, 10]
        assert not alive(started[0].pid)

    def test_jobs_can_be_cancelled(self):
        ran = []
        go = threading.Event()
        with DecodePool(DecodeOptions(workers=1)) as pool:
            pool.submit(lambda _: go.wait(30))
            unwanted = pool.submit(lambda _: ran.append("unwanted"))
            wanted = pool.submit(lambda _: ran.append("wanted"))
            assert unwanted.cancel()
            go.set()
            wanted.result(30)

        assert ran == ["wanted"]

    def test_close_ends_a_job_that_hangs(self, pipe):
        pool = DecodePool(DecodeOptions(workers=1))
        started = threading.Event()

        def run(process):
            started.set()
            return process.ask(job(pipe))

        running, waiting = pool.submit(run), pool.submit(run)
        started.wait(30)
        wait_until(pool.pids)
        pids = pool.pids()

        before = time.monotonic()
        pool.close()

        assert time.monotonic() - before < 10
        assert not any(map(alive, pids))
        assert pool.pids() == []
        for future in (running, waiting):
            with pytest.raises(PoolStopped):
                future.result(0)

    def test_after_close_no_job_runs(self):
        pool = DecodePool(DecodeOptions(workers=1))
        pool.close()

        with pytest.raises(PoolStopped, match="the decode processes were stopped"):
            pool.submit(lambda _: 7).result(0)
        pool.close()

    def test_kill_does_not_wait(self, path):
        """It is called by signal handlers."""
        pool = DecodePool(DecodeOptions(workers=1))
        pool.submit(lambda process: process.ask(job(path))).result(60)
        [pid] = pool.pids()

        pool.kill()

        with pytest.raises(PoolStopped):
            pool.submit(lambda _: 7).result(0)
        pool.close()
        assert not alive(pid)

    def test_a_process_killed_from_outside_fails_one_job(self, path):
        with DecodePool(DecodeOptions(workers=1)) as pool:
            ask = partial(pool.submit, lambda process: process.ask(job(path)))
            ask().result(60)
            os.kill(pool.pids()[0], signal.SIGKILL)

            with pytest.raises(DecoderLost, match="signal 9"):
                ask().result(60)
            assert ask().result(60)["index"]["packets"] == 10


PARENT = """
import sys, time
from pipeline.config import DecodeOptions
from pipeline.decode.process_pool import DecodePool

pool = DecodePool(DecodeOptions(workers=2, frame_timeout_seconds=100))
jobs = [{"do": "index", "kind": "file", "location": path, "max_pixels": 9} for path in sys.argv[1:]]
futures = [pool.submit(lambda process, job=job: process.ask(job)) for job in jobs]
futures[0].exception()  # waits for the first job, which fails
while len(pool.pids()) < 2:
    time.sleep(0.02)
time.sleep(0.5)  # the second job opens its pipe, and hangs
print(*pool.pids(), flush=True)
time.sleep(100)
"""


def test_decode_processes_end_with_their_parent(path, pipe):
    """Not even one that hangs is left behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(path), str(pipe)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))

        parent.kill()
        parent.wait()

        wait_until(lambda: not any(map(alive, pids)))
