from __future__ import annotations

import itertools
import os
import signal
import threading
from dataclasses import replace

import av
import numpy as np
import pytest

from pipeline.config import DecodeOptions, Geometry, Sampling
from pipeline.decode.fallback import (
    decode_chunk,
    first_message,
    index_video,
    new_buffer,
    num_images,
)
from pipeline.decode.process_pool import JobTimeout
from pipeline.decode.sampling import SamplePlan
from pipeline.decode.shared_memory import FrameBuffer, discard_buffer
from pipeline.errors import DecoderLost, VideoError
from pipeline.records import Chunk, Video, merge_reports
from tests.decode.decoding import ALL, SMALL, as_video, decode, numbers
from tests.decode.test_container_index import write_dropped
from tests.decode.test_sampling import steady
from tests.videos import cut_copy, spoil, write_sound, write_video

FORCED = ("auto", "decord", "opencv", "pyav")


class MockProcess:
    """Mock of a decode process: readers return given answers, and images with their initial."""

    def __init__(self, reader="auto", **answers):
        self.options = DecodeOptions(reader=reader)
        self.indexed_location = None
        self.answers = answers
        self.asked = []
        self.jobs = []

    def ask(self, job, put):
        self.asked.append(job["reader"])
        self.jobs.append(job)
        answer = self.answers[job["reader"]]
        if isinstance(answer, list):
            answer = answer.pop(0)
        put(0, np.full((1, 2, 2, 3), ord(job["reader"][0]), np.uint8), np.zeros(1, np.int64))
        if isinstance(answer, Exception):
            raise answer
        return answer


def answered(frames, **more):
    return {
        "sample_index": list(range(frames)),
        "frame_index": list(range(frames)),
        "pts_seconds": [n / 10 for n in range(frames)],
        "decoded": frames,
        "duplicated": 0,
        "damaged": 0,
        "problem": "",
        "decoder_stderr": "",
        "late": 0,
        "backwards": False,
        "full": False,
        **more,
    }


def refused(message):
    return {"refused": message, "decoder_stderr": ""}


def emptied(path, samples):
    """Remove the bytes of some samples of an MP4 whose samples are all in one chunk."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        offsets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    assert all(p + size == q for (p, size), (q, _) in itertools.pairwise(offsets))
    sizes = data.index(b"stsz") + 16  # behind name, version, common size and count
    for sample in sorted(samples, reverse=True):
        position, size = offsets[sample]
        data[sizes + 4 * sample : sizes + 4 * sample + 4] = bytes(4)
        data[sum(offsets[-1]) : sum(offsets[-1])] = bytes(size)
        del data[position : position + size]
    path.write_bytes(data)
    return path


def decode_ten(process, sampling=ALL, chunk=(0, 10), **index):
    """Decode ten frames with a mock. Returns the report, and the initial on the images."""
    part = Chunk(as_video("a.mp4"), replace(steady(10, 10), **index), *chunk, 10)
    geometry = Geometry(2, 2, "squash", reducing_gap=1)
    batch = decode_chunk(process, part, sampling, geometry, new_buffer(part, geometry))
    mark = chr(batch.images[0, 0, 0, 0]) if len(batch.images) else ""
    return batch.report, mark


HANG = JobTimeout("no frame for 9 s (--frame-timeout)")
CRASH = DecoderLost("the decode process was ended by signal 11")
NO_MEMORY = VideoError("out_of_memory", "decoding needed more memory than allowed")
GONE = VideoError("unreadable", "cannot be read: No such file or directory")


class TestOrderOfReaders:
    def test_the_first_clean_answer_is_taken(self):
        process = MockProcess(decord=answered(10))

        report, mark = decode_ten(process)

        assert (report.status, report.decoder, report.attempts) == ("ok", "decord", ())
        assert (process.asked, mark) == (["decord"], "d")

    def test_a_forced_reader_is_tried_before_the_others(self):
        process = MockProcess("opencv", opencv=HANG, decord=HANG, pyav=answered(10))

        report, _ = decode_ten(process)

        assert process.asked == ["opencv", "decord", "pyav"]
        assert report.status == "ok"

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (HANG, "no frame for 9 s (--frame-timeout)"),
            (CRASH, "the decode process was ended by signal 11"),
            (NO_MEMORY, "decoding needed more memory than allowed"),
            (refused("cannot flip"), "cannot flip"),
            (answered(9), "9 of 10 frames"),
            (answered(11), "11 of 10 frames"),
            (
                answered(10, decoder_stderr="[h264 @ 0x7f00] concealing"),
                "10 of 10 frames: [h264] concealing",
            ),
            (answered(10, damaged=2), "10 of 10 frames, 2 of them damaged"),
            (answered(8, problem="invalid data", damaged=2), "8 of 10 frames: invalid data"),
            (answered(10, full=True), "more than the 10 frames that the container holds"),
        ],
        ids=lambda value: "" if isinstance(value, dict | Exception) else value,
    )
    def test_after_any_flaw_the_next_reader_is_tried(self, answer, message):
        process = MockProcess(decord=answer, pyav=answered(10))

        report, mark = decode_ten(process)

        assert (report.status, report.error, report.decoder) == ("ok", "", "pyav")
        assert report.attempts == (f"decord: {message}",)
        assert mark == "p"

    def test_pyav_is_the_reference_for_damaged_files(self):
        """What PyAV decodes of a damaged file is accepted."""
        process = MockProcess(decord=CRASH, pyav=answered(7, problem="invalid data", damaged=3))

        report, _ = decode_ten(process)

        assert process.asked == ["decord", "pyav"]
        assert (report.status, report.error) == ("partial", "7 of 10 frames: invalid data")
        assert (report.frames_decoded, report.frames_missing, report.frames_damaged) == (7, 3, 3)

    def test_without_pyav_the_reader_with_most_frames_is_used(self):
        process = MockProcess(decord=answered(4), pyav=CRASH, opencv=answered(6))

        report, mark = decode_ten(process)

        assert process.asked == ["decord", "pyav", "opencv"]
        assert (report.status, report.decoder, report.frames_decoded) == ("partial", "opencv", 6)
        assert report.attempts == ("decord: 4 of 10 frames", f"pyav: {CRASH}")
        assert mark == "o"

    def test_images_overwritten_by_a_later_reader_are_decoded_again(self):
        for last in (CRASH, refused("late"), answered(2)):
            process = MockProcess(decord=answered(6), pyav=HANG, opencv=last)

            report, mark = decode_ten(process)

            assert process.asked == ["decord", "pyav", "opencv", "decord"]
            assert (report.decoder, report.frames_decoded) == ("decord", 6)
            assert mark == "d"

    @pytest.mark.parametrize(
        ("again", "status"), [(refused("no"), "decode_timeout"), (NO_MEMORY, "out_of_memory")]
    )
    def test_images_that_cannot_be_decoded_again_are_dropped(self, again, status):
        pyav = HANG if status == "decode_timeout" else answered(0)
        process = MockProcess(decord=[answered(6), again], pyav=pyav, opencv=refused("late"))

        report, mark = decode_ten(process)

        assert process.asked == ["decord", "pyav", "opencv", "decord"]
        assert (report.status, report.frames_decoded, report.frames_missing) == (status, 0, 10)
        assert report.attempts[0] == "decord: 6 of 10 frames"
        assert len(report.attempts) == 4
        assert mark == ""

    def test_decreasing_times_are_read_by_order(self):
        process = MockProcess(decord=[answered(9, backwards=True), answered(10)])

        report, _ = decode_ten(process)

        assert [job["by_order"] for job in process.jobs] == [False, True]
        assert report.status == "ok"

    def test_a_chunk_within_one_frame_expects_no_frame(self):
        """The frame is counted in the chunk before; its image is needed here too."""
        for codec in ("h264", "mpeg4"):
            process = MockProcess(pyav=answered(1, decoded=0))

            report, mark = decode_ten(process, Sampling(fps=30), chunk=(1, 2), codec=codec)

            assert (report.status, report.frames_expected, mark) == ("ok", 0, "p")

    @pytest.mark.parametrize(("bridged", "frames"), [(False, 6), (True, 8)])
    def test_the_job_holds_the_number_of_frames_to_read(self, bridged, frames):
        """A file that is not seekable is read from its start; the time limit depends on that."""
        process = MockProcess(pyav=answered(6))
        decode_ten(process, chunk=(2, 8), bridged=bridged)

        assert process.jobs[0]["frames"] == frames

    def test_the_index_is_sent_once(self):
        process = MockProcess(decord=answered(9), pyav=answered(10))
        decode_ten(process)
        decode_ten(process)

        assert [job["index"] is not None for job in process.jobs] == [True, False, False, False]


class TestNothing:
    @pytest.mark.parametrize(
        ("answers", "status"),
        [
            ((HANG, HANG, HANG), "decode_timeout"),
            ((CRASH, CRASH, CRASH), "decode_crash"),
            ((CRASH, NO_MEMORY, refused("no")), "out_of_memory"),
            ((NO_MEMORY, CRASH, HANG), "decode_timeout"),
            ((refused("no"), GONE, refused("no")), "unreadable"),
            ((refused("no"), GONE, CRASH), "decode_crash"),
            ((refused("no"), answered(0), answered(0)), "undecodable"),
        ],
    )
    def test_the_status_is_that_of_the_worst_failure(self, answers, status):
        decord, pyav, opencv = answers
        report, mark = decode_ten(MockProcess(decord=decord, pyav=pyav, opencv=opencv))

        assert report.status == status
        assert report.error == "; ".join(report.attempts)
        assert len(report.attempts) == 3
        assert (report.frames_expected, report.frames_missing, report.decoder) == (10, 10, "")
        assert mark == ""


class MockIndexer:
    """Mock of a decode process that is asked for an index."""

    def __init__(self, answers):
        self.options = DecodeOptions()
        self.answers = list(answers)

    def ask(self, job):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class TestIndexVideo:
    def failure(self, process, source):
        video = source if isinstance(source, Video) else as_video(source)
        with pytest.raises(VideoError) as caught:
            index_video(process, video)
        return caught.value.status, str(caught.value)

    def test_a_source_with_a_failure(self, process):
        video = Video("a", "/a", "file", "x", 0, None, ("missing", "No such file: a"))

        assert self.failure(process, video) == ("missing", "No such file: a")

    def test_too_long(self, start_process, tmp_path):
        path = write_video(tmp_path / "a.mkv", 3, times=[0, 1, 7200])

        status, message = self.failure(start_process(max_video_seconds=3600), path)

        assert status == "too_long"
        assert message.startswith("lasts 10,800 s; at most 3,600 s are allowed")
        assert message.endswith("(--max-video-seconds)")

    def test_too_large(self, start_process, tmp_path):
        path = write_video(tmp_path / "a.mp4", 3, size=(128, 64))

        assert self.failure(start_process(max_pixels=8000), path) == (
            "too_large",
            "claims 128 × 64 pixels; at most 8,000 are allowed (--max-pixels)",
        )

    def test_a_container_that_hangs(self, start_process, pipe):
        assert self.failure(start_process(frame_timeout_seconds=0.5), pipe) == (
            "decode_timeout",
            "reading the container: no frame for 0.5 s (--frame-timeout)",
        )

    @pytest.mark.parametrize("answers", [[CRASH, CRASH], [HANG], [CRASH, HANG], [CRASH, GONE]])
    def test_is_tried_again_after_the_process_died(self, answers):
        """It may have been killed from outside; a hang would happen again."""
        last = answers[-1]
        status = {CRASH: "decode_crash", HANG: "decode_timeout", GONE: "unreadable"}[last]
        process = MockIndexer(answers)

        found, message = self.failure(process, "a.mp4")

        assert (found, message.removeprefix("reading the container: ")) == (status, str(last))
        assert process.answers == []

    def test_a_killed_process_is_restarted(self):
        index = steady(10, 10)
        process = MockIndexer([CRASH, {"index": index.to_json()}])

        assert index_video(process, as_video("a.mp4")).to_json() == index.to_json()

    def test_a_container_that_crashes(self, start_process, pipe, tmp_path):
        process = start_process()
        index_video(process, as_video(write_video(tmp_path / "a.mp4", 3)))
        ask = process.ask

        def killed(job):
            process.start()
            threading.Timer(0.3, os.kill, (process.pid, signal.SIGKILL)).start()
            return ask(job)

        process.ask = killed

        assert self.failure(process, pipe) == (
            "decode_crash",
            "reading the container: the decode process was ended by signal 9",
        )

    def test_no_displayed_frame(self, process, tmp_path):
        source = write_video(tmp_path / "a.mp4", 30)
        empty = cut_copy(source, tmp_path / "b.mp4", 5.0)

        assert self.failure(process, empty) == (
            "undecodable",
            "the container says to display none of its frames",
        )

    @pytest.mark.parametrize(
        ("name", "content", "status"),
        [
            ("a.mp4", b"", "not_video"),
            ("a.mp4", b"just some text\n" * 99, "not_video"),
            ("a.txt", b"just some text\n" * 99, "not_video"),
            ("a.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nb.ts\n", "not_video"),
            ("a.mp4", b"ffconcat version 1.0\nfile b.mp4\n", "not_video"),
        ],
        ids=["empty", "text", "text file", "live playlist", "playlist"],
    )
    def test_no_video(self, process, tmp_path, name, content, status):
        (tmp_path / name).write_bytes(content)

        assert self.failure(process, tmp_path / name)[0] == status

    def test_sound_only(self, process, tmp_path):
        assert self.failure(process, write_sound(tmp_path / "a.m4a")) == (
            "not_video",
            "holds no video stream, only audio",
        )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """48 frames, a key frame every 12."""
    return write_video(tmp_path_factory.mktemp("source") / "a.mp4", 48, size=(128, 64), gop=12)


class TestDecodeChunk:
    def test_an_undamaged_file(self, source, process):
        batch = decode(process, source, Sampling(fps=10))

        assert numbers(batch.images) == batch.frame_index.tolist() == list(range(0, 48, 3))
        assert batch.pts_seconds == pytest.approx(np.arange(16) / 10)
        report = batch.report
        assert (report.status, report.error, report.attempts) == ("ok", "", ())
        assert (report.frames_expected, report.frames_decoded, report.frames_sampled) == (
            48,
            48,
            16,
        )
        assert (report.codec, report.width, report.height) == ("h264", 128, 64)
        assert report.duration_seconds == pytest.approx(1.6)
        assert report.frame_rate == pytest.approx(30)
        assert report.edit_list is False

    def test_context_is_decoded_and_not_counted(self, source, process):
        batch = decode(process, source, start=20, stop=30, context=4)

        assert batch.sample_index.tolist() == numbers(batch.images) == list(range(16, 30))
        assert batch.report.frames_sampled == batch.report.frames_decoded == 10

    @pytest.mark.parametrize("reader", FORCED)
    def test_a_clip_with_an_edit_list(self, tmp_path, forced_process, reader):
        """600 packets, 450 displayed frames: a reader that counts packets would hang."""
        path = write_video(tmp_path / "a.mp4", 600, size=(128, 64), gop=1000)
        clip = cut_copy(path, tmp_path / "b.mp4", 5.0)

        batch = decode(forced_process(reader), clip)

        assert numbers(batch.images) == list(range(150, 600))
        assert batch.frame_index.tolist() == list(range(450))
        assert batch.pts_seconds == pytest.approx(np.arange(450) / 30, abs=1e-6)
        report = batch.report
        assert (report.status, report.attempts) == ("ok", ())
        assert report.decoder == ("pyav" if reader == "auto" else reader)
        assert (report.packets, report.packets_discarded, report.edit_list) == (600, 150, True)
        assert (report.frames_expected, report.frames_decoded) == (450, 450)

    @pytest.mark.parametrize("reader", FORCED)
    def test_interlaced_frames_are_not_black(self, tmp_path, forced_process, reader):
        """OpenCV 5 returns black frames, and reports the error on stderr only."""
        options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1"}
        path = write_video(tmp_path / "a.mp4", 12, size=(128, 64), options=options)

        batch = decode(forced_process(reader), path, Sampling(every=3))

        assert numbers(batch.images) == [0, 3, 6, 9]
        assert batch.report.status == "ok"

    @pytest.mark.parametrize("reader", FORCED)
    def test_decode_times_stored_as_presentation_times(self, tmp_path, forced_process, reader):
        """AVI stores decode times of H.264: only the order of frames is reliable."""
        path = write_video(
            tmp_path / "a.avi",
            24,
            size=(128, 64),
            b_frames=3,
            options={"preset": "fast", "b_adapt": "0"},
        )

        batch = decode(forced_process(reader), path)

        assert numbers(batch.images) == list(range(24))
        assert batch.pts_seconds == pytest.approx(np.arange(24) / 30)
        assert batch.report.status == "ok"

    @pytest.mark.parametrize("reader", FORCED)
    @pytest.mark.parametrize("kind", [("libx264", "yuv420p"), ("mjpeg", "yuvj420p")])
    def test_frames_of_zero_bytes(self, tmp_path, forced_process, kind, reader):
        """The frame before stays visible and nothing is missing, with any behaviour of FFmpeg."""
        codec, pixels = kind
        path = write_video(
            tmp_path / "a.mp4", 24, size=(128, 64), gop=1, codec=codec, pixel_format=pixels
        )
        path = emptied(path, [5, 6, 20])
        shown = [n for n in range(24) if n not in (5, 6, 20)]

        batch = decode(forced_process(reader), path, Sampling(fps=30))

        assert numbers(batch.images) == [*range(5), 4, 4, *range(7, 20), 19, *range(21, 24)]
        report = batch.report
        assert (report.status, report.error) == ("ok", "")
        assert (report.frames_expected, report.frames_decoded) == (len(shown), len(shown))

    @pytest.mark.parametrize("reader", FORCED)
    def test_dropped_frames(self, tmp_path, forced_process, reader):
        path = write_dropped(tmp_path / "a.avi", size=(128, 64))

        batch = decode(forced_process(reader), path, Sampling(fps=10))

        assert numbers(batch.images) == [0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6]
        assert (batch.report.status, batch.report.frames_decoded) == ("ok", 7)

    def test_a_decoder_that_hangs_is_followed_by_the_next(self, source, start_process, fake_decord):
        fake_decord("time.sleep(60)")

        batch = decode(start_process(frame_timeout_seconds=3), source)

        assert numbers(batch.images) == list(range(48))
        assert (batch.report.status, batch.report.decoder) == ("ok", "pyav")
        assert batch.report.attempts == ("decord: no frame for 3 s (--frame-timeout)",)

    def test_a_decoder_that_crashes_is_followed_by_the_next(
        self, source, start_process, fake_decord
    ):
        fake_decord("os.abort()")

        batch = decode(start_process(), source)

        assert numbers(batch.images) == list(range(48))
        assert batch.report.attempts == ("decord: the decode process was ended by signal 6",)

    def test_every_decoder_hangs(self, source, start_process, set_options, tmp_path):
        """Every reader waits for a disk that does not answer."""
        path = tmp_path / "a.mp4"
        path.write_bytes(source.read_bytes())
        process = start_process()
        index = index_video(process, as_video(path))
        path.unlink()
        os.mkfifo(path)
        set_options(process, frame_timeout_seconds=0.5)

        batch = decode(process, path, index=index)

        assert len(batch.images) == 0
        assert batch.report.status == "decode_timeout"
        assert [error.partition(":")[0] for error in batch.report.attempts] == [
            "decord",
            "pyav",
            "opencv",
        ]
        assert batch.report.frames_missing == 48

    def test_a_deleted_file(self, source, process, tmp_path):
        path = tmp_path / "a.mp4"
        path.write_bytes(source.read_bytes())
        index = index_video(process, as_video(path))
        path.unlink()

        report = decode(process, path, index=index).report

        assert report.status == "unreadable"
        assert report.transient
        assert "pyav: cannot be read: No such file or directory" in report.attempts


class TestDamage:
    """Decodable frames are used with their right positions and times; the rest is counted."""

    @pytest.mark.parametrize("reader", FORCED)
    def test_a_lost_group_of_pictures(self, source, forced_process, tmp_path, reader):
        path = spoil(source, tmp_path / "b.mp4", range(12, 24))

        batch = decode(forced_process(reader), path)

        assert numbers(batch.images) == [*range(12), *range(24, 48)]
        assert batch.frame_index.tolist() == [*range(12), *range(24, 48)]
        assert batch.pts_seconds == pytest.approx(batch.frame_index / 30)
        report = batch.report
        assert (report.status, report.decoder) == ("partial", "pyav")
        assert report.error == "36 of 48 frames: invalid data found when processing input"
        assert (report.frames_expected, report.frames_decoded) == (48, 36)
        assert (report.frames_missing, report.frames_damaged) == (12, 12)

    def test_a_lost_beginning(self, source, process, tmp_path):
        batch = decode(process, spoil(source, tmp_path / "b.mp4", range(12)), Sampling(fps=5))

        assert batch.sample_index.tolist() == [2, 3, 4, 5, 6, 7]
        assert numbers(batch.images) == [12, 18, 24, 30, 36, 42]

    def test_a_lost_end(self, source, process, tmp_path):
        batch = decode(process, spoil(source, tmp_path / "b.mp4", range(40, 48)))

        assert numbers(batch.images) == list(range(40))
        assert batch.report.frames_missing == 8

    def test_a_long_damaged_part(self, tmp_path, process):
        """The frame before a damaged part is held for a second, not for all of it."""
        path = write_video(tmp_path / "a.mp4", 60, fps=10, size=(128, 64), gop=10)

        batch = decode(process, spoil(path, tmp_path / "b.mp4", range(10, 50)), Sampling(fps=5))

        assert batch.sample_index.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 25, 26, 27, 28, 29]
        assert numbers(batch.images)[4:11] == [8, 9, 9, 9, 9, 9, 50]

    def test_a_corrupt_frame(self, source, process, tmp_path):
        report = decode(process, spoil(source, tmp_path / "b.mp4", [20], 0.5)).report

        assert (report.status, report.frames_decoded, report.frames_damaged) == ("partial", 48, 1)
        assert report.error == "48 of 48 frames, 1 of them damaged"

    def test_a_truncated_file(self, tmp_path, process):
        path = write_video(tmp_path / "a.mkv", 48, size=(128, 64), gop=12)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

        batch = decode(process, path)

        found = numbers(batch.images)
        assert 10 < len(found) < 40
        assert found == list(range(len(found)))

    def test_a_truncated_file_with_a_frame_count_in_its_header(self, source, tmp_path, process):
        """With `faststart` the table of an MP4 is at its beginning, with the number of frames."""
        path = tmp_path / "a.mp4"
        write_video(path, 48, size=(128, 64), gop=12, muxing={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

        batch = decode(process, path)

        found = numbers(batch.images)
        assert 10 < len(found) < 40
        assert found == list(range(len(found)))
        assert batch.report.status == "partial"
        assert batch.report.frames_from_header == 48

    @pytest.mark.parametrize("lost", [[20], range(12, 24), range(3), range(40, 48)])
    def test_reports_of_chunks_add_up_to_that_of_the_video(self, source, process, tmp_path, lost):
        path = spoil(source, tmp_path / "b.mp4", lost)
        whole = decode(process, path)

        parts = [
            decode(process, path, start=start, stop=stop)
            for start, stop in itertools.pairwise([0, 17, 26, 38, 48])
        ]

        frames = np.concatenate([part.frame_index for part in parts])
        assert frames.tolist() == whole.frame_index.tolist()
        merged = merge_reports([part.report for part in parts])
        for count in ("expected", "decoded", "missing", "damaged", "sampled"):
            assert getattr(merged, f"frames_{count}") == getattr(whole.report, f"frames_{count}")
        assert merged.status == whole.report.status == "partial"


def test_the_images_of_a_chunk_include_its_context():
    assert num_images(Chunk(as_video("a"), None, 10, 30, 99, context=4)) == 24


def test_images_are_resized_while_they_are_decoded(source, process):
    """`FrameBatch.resized` is set then."""
    index = index_video(process, as_video(source))
    chunk = Chunk(as_video(source), index, 0, 48, 48)
    shown = []

    def fit(images, frame_index):
        shown.extend(frame_index.tolist())
        return 255 - images

    plain = decode_chunk(process, chunk, ALL, SMALL, new_buffer(chunk, SMALL))
    buffer = replace(new_buffer(chunk, SMALL), resize=fit)
    batch = decode_chunk(process, chunk, ALL, SMALL, buffer)

    assert (plain.resized, batch.resized) == (False, True)
    assert shown == plain.frame_index.tolist()
    np.testing.assert_array_equal(batch.images, 255 - plain.images)


def test_a_buffer_grows_for_more_images_than_expected(source, process):
    index = index_video(process, as_video(source))
    chunk = Chunk(as_video(source), index, 0, 48, 48)
    buffer = FrameBuffer(new_buffer(chunk, SMALL).images[:5])

    batch = decode_chunk(process, chunk, ALL, SMALL, buffer)

    assert numbers(batch.images) == list(range(48))


def test_a_report_needs_no_memory_for_images(source, process):
    index = index_video(process, as_video(source))

    batch = decode_chunk(
        process, Chunk(as_video(source), index, 0, 48, 48), ALL, SMALL, discard_buffer()
    )

    assert batch.report.frames_decoded == 48
    assert batch.images.shape == (48, 0, 0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ("\n \n", ""),
        ("[h264 @ 0x55c385c9f640] no frame!\n[h264 @ 0x1] again", "[h264] no frame!"),
        (
            "Decord stopped: [07:53:31] /project/src/video/a.cc:292: [07:53:31] "
            "/project/src/video/b.cc:218: Check failed: x >= 0",
            "Decord stopped: Check failed: x >= 0",
        ),
        ("x" * 300, "x" * 200),
    ],
)
def test_first_message(text, message):
    """Without addresses and time stamps, so that a file has the same message in every run."""
    assert first_message(text) == message


@pytest.mark.parametrize("sampling", [Sampling(fps=8), Sampling(every=3)])
def test_chunks_of_real_clips(shared, process, sampling):
    for name in ("flipping_a_pancake.mkv", "mma_test.avi"):
        video = as_video(shared / "data" / "clips" / name)
        index = index_video(process, video)
        total = min(150, SamplePlan(index, sampling).num_samples)
        whole = decode(process, video, sampling, index=index, stop=total)
        borders = [0, total // 3, total // 2, total]

        parts = [
            decode(process, video, sampling, index=index, start=start, stop=stop)
            for start, stop in itertools.pairwise(borders)
        ]

        joined = np.concatenate([part.frame_index for part in parts])
        assert joined.tolist() == whole.frame_index.tolist()
        assert np.array_equal(np.concatenate([part.images for part in parts]), whole.images)
