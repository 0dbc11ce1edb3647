"""
Decode one video, or one chunk of it: try reader after reader until one decodes it without a flaw.

Every file gets a report. A reader that hangs, crashes, refuses, returns a wrong number of frames or
prints errors is followed by the next one; what the best of them decoded is used and counted.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.config import Geometry, Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.process_pool import DecodeProcess, JobTimeout
from pipeline.decode.protocol import Message
from pipeline.decode.readers.choose import choose_readers, has_one_frame_per_packet
from pipeline.decode.sampling import SamplePlan, frames_are_samples, sampling_of
from pipeline.decode.shared_memory import SPARE_IMAGES, FrameBuffer
from pipeline.decode.unusable_files import ENCRYPTED
from pipeline.decode.versions import decoding_version
from pipeline.errors import DecoderLost, VideoError
from pipeline.records import Chunk, DecodeReport, FrameBatch, Video, VideoIndex


def index_video(process: DecodeProcess, video: Video) -> VideoIndex:
    """
    Index the container of a video in a decode process.

    Raises:
        VideoError: the video cannot be used; the error holds its status and message.
    """
    if video.failure:
        raise VideoError(*video.failure)
    options = process.options
    job: Message = {
        "do": "index",
        "location": video.location,
        "kind": video.kind,
        "image_fps": video.image_fps,
        "max_pixels": options.max_pixels,
    }
    try:
        index = VideoIndex.from_json(_ask_twice(process, job)["index"])
    except JobTimeout as error:
        raise VideoError("decode_timeout", f"reading the container: {error}") from error
    except DecoderLost as error:
        raise VideoError("decode_crash", f"reading the container: {error}") from error
    if index.duration_seconds > options.max_video_seconds:
        raise VideoError(
            "too_long",
            f"lasts {index.duration_seconds:,.0f} s; at most {options.max_video_seconds:,.0f} s "
            "are allowed (--max-video-seconds)",
        )
    return index


def _ask_twice(process: DecodeProcess, job: Message) -> Message:
    """
    Ask again if the process died.

    It may have been killed from outside, and there is no other reader that indexes a file.
    """
    try:
        return _ask(process, job)
    except JobTimeout:
        raise
    except DecoderLost:
        return _ask(process, job)


def _ask(process: DecodeProcess, job: Message) -> Message:
    answer = process.ask(job)
    if "refused" in answer:  # an unexpected exception: treated as an unknown format
        raise VideoError("undecodable", answer["refused"])
    return answer


def failure_report(error: VideoError) -> DecodeReport:
    """Create the report on a video whose container cannot be used."""
    return DecodeReport(error.status, str(error), decoding_version=decoding_version())


def num_images(chunk: Chunk) -> int:
    """Count the images that a chunk should have, context included."""
    return chunk.stop - chunk.start + chunk.context


def new_buffer(chunk: Chunk, geometry: Geometry) -> FrameBuffer:
    """Create a buffer for the images of a chunk, in the size in which they are decoded."""
    assert chunk.index is not None
    size = decoded_size(chunk.index.height, chunk.index.width, geometry)
    return FrameBuffer(np.empty((num_images(chunk), *size, 3), np.uint8))


def decode_chunk(
    process: DecodeProcess,
    chunk: Chunk,
    sampling: Sampling,
    geometry: Geometry,
    buffer: FrameBuffer,
    *,
    shots: bool = False,
) -> FrameBatch:
    """
    Decode the sampled frames of a chunk.

    Args:
        process: decodes.
        chunk: of a video with an index.
        sampling: which frames.
        geometry: image size of the encoder, towards which frames are downscaled.
        buffer: receives `num_images` images.
        shots: whether shots are looked for, in all decoded frames.

    Returns:
        The frames that could be decoded, maybe none, and the report.
    """
    index = chunk.index
    assert index is not None
    resolved = sampling_of(index, sampling)
    size = decoded_size(index.height, index.width, geometry)
    job = {**_job(chunk, resolved), "size": list(size), "shots": shots}
    answer, report = ReaderFallback(process, chunk, resolved, job, buffer).run()
    samples = np.asarray(answer["sample_index"], dtype=np.int64)
    return FrameBatch(
        chunk=chunk,
        images=buffer.images[: len(samples)],
        sample_index=samples,
        frame_index=np.asarray(answer["frame_index"], dtype=np.int64),
        pts_seconds=np.asarray(answer["pts_seconds"], dtype=np.float64),
        report=_with_sampling(report, index, sampling, int(np.sum(samples >= chunk.start))),
        resized=buffer.resize is not None,
        shots=answer.get("shots"),
    )


def _with_sampling(
    report: DecodeReport, index: VideoIndex, sampling: Sampling, count: int
) -> DecodeReport:
    """Add how the video was sampled, and the number of samples."""
    once = frames_are_samples(index, sampling)
    slow = f"each frame is one sample: it is shown for {index.frame_seconds:g} s" if once else ""
    still = "a still picture, without a duration: no clips" if not index.duration_seconds else ""
    note = "; ".join(filter(None, [index.note, slow, still]))
    return replace(report, frames_sampled=count, one_sample_per_frame=once, note=note)


def _job(chunk: Chunk, sampling: Sampling) -> Message:
    """Make the message that lets a process decode a chunk, without reader and size."""
    return {
        "do": "decode",
        "location": chunk.video.location,
        "sampling": {"fps": sampling.fps, "every": sampling.every},
        "start": chunk.start,
        "stop": chunk.stop,
        "context": chunk.context,
        "capacity": num_images(chunk) + SPARE_IMAGES,
        "by_order": False,
    }


EMPTY_ANSWER: Message = {
    "sample_index": [],
    "frame_index": [],
    "pts_seconds": [],
    "decoded": 0,
    "duplicated": 0,
    "damaged": 0,
    "late": 0,
    "problem": "",
    "full": False,
}
"""Stands for the answer of a decode process where no reader decoded a frame."""
FAILURE_STATUSES = ("decode_timeout", "out_of_memory", "decode_crash", "unreadable")
"""Status of a video without any frame: the first of these that a reader ended with."""


class ReaderFallback:
    """
    Tries the readers for one chunk, in order.

    Args:
        process: decodes.
        chunk: of a video with an index.
        sampling: which frames.
        job: the message for the decode process, without the reader.
        buffer: receives the images.
    """

    def __init__(
        self,
        process: DecodeProcess,
        chunk: Chunk,
        sampling: Sampling,
        job: Message,
        buffer: FrameBuffer,
    ) -> None:
        assert chunk.index is not None
        self.process, self.chunk, self.buffer = process, chunk, buffer
        self.index: VideoIndex = chunk.index
        plan = SamplePlan(self.index, sampling, chunk.start, chunk.stop, chunk.context)
        frames = plan.frame_range()
        self.expected = len(frames)
        to_read = frames.stop - (frames.start if self.index.seekable else 0)
        self.job: Message = {**job, "frames": to_read}
        wanted = plan.stop - plan.first
        self.sparse = wanted * 2 < self.expected
        self.errors: list[str] = []
        """One message for each reader that failed, `reader: message`."""
        self.failures: set[str] = set()
        """Statuses of readers whose process died, or that could not read the file at all."""

    def run(self) -> tuple[Message, DecodeReport]:
        """
        Try readers until one decodes every frame.

        PyAV is the reference: what it decodes of a damaged file is accepted. Where it decodes
        nothing, or its process dies, the reader that decoded most is used.

        Returns:
            The answer of the decode process, and the report on this chunk.
        """
        best: tuple[int, str, Message] | None = None
        last = ""
        for name in self._readers():
            answer, last = self._try(name), name
            if answer is None:
                continue
            score = answer["decoded"] + len(answer["sample_index"])
            if self._is_clean(name, answer) or (name == "pyav" and score):
                return answer, self._report(name, answer)
            if best is None or score > best[0]:
                best = (score, name, answer)
            self.errors.append(f"{name}: {self._flaw(answer)}")
        if best is None or best[0] == 0:
            return EMPTY_ANSWER, self._failure_report()
        _, name, answer = best
        if name != last:  # a later reader may have overwritten the images
            again = self._try(name)
            if again is None:
                return EMPTY_ANSWER, self._failure_report()
            answer = again
        self.errors = [error for error in self.errors if not error.startswith(f"{name}:")]
        return answer, self._report(name, answer)

    def _readers(self) -> tuple[str, ...]:
        forced = self.process.options.reader
        middle = self.chunk.start > 0
        readers = choose_readers(
            self.index, sparse=self.sparse, middle=middle, all_frames=self.job.get("shots", False)
        )
        if forced == "auto" or len(readers) == 1:
            return readers
        return (forced, *(name for name in readers if name != forced))

    def _try(self, reader: str) -> Message | None:
        answer = self._decode(reader, by_order=False)
        if answer is not None and answer["backwards"]:
            # frames come in display order: where their times decrease, the container has stored
            # decode times as presentation times
            answer = self._decode(reader, by_order=True)
        return answer

    def _decode(self, reader: str, *, by_order: bool) -> Message | None:
        send_index = self.process.indexed_location != self.chunk.video.location
        job = {
            **self.job,
            "reader": reader,
            "by_order": by_order,
            "index": self.index.to_json() if send_index else None,
        }
        try:
            answer = self.process.ask(job, self.buffer.put)
        except (DecoderLost, VideoError) as error:
            self.failures.add(_failure_status(error))
            self.errors.append(f"{reader}: {error}")
            return None
        self.process.indexed_location = self.chunk.video.location
        if "refused" in answer:
            self.errors.append(f"{reader}: {first_message(answer['refused'])}")
            return None
        return answer

    def _is_clean(self, reader: str, answer: Message) -> bool:
        if answer["problem"] or answer["damaged"] or answer["full"]:
            return False
        if reader == "pyav" and not has_one_frame_per_packet(self.index):
            # PyAV reports every failure, so packets without a frame are fine, except at the start
            late = answer["late"] and not self.chunk.start
            return bool(answer["decoded"] and not late) or not self.expected
        return bool(answer["decoded"] == self.expected and not answer["decoder_stderr"])

    def _flaw(self, answer: Message) -> str:
        if answer["full"]:
            return f"more than the {self.expected} frames that the container holds"
        found = f"{answer['decoded']} of {self.expected} frames"
        if answer["damaged"] and not answer["problem"]:
            return f"{found}, {answer['damaged']} of them damaged"
        if answer["late"] and not self.chunk.start and answer["problem"] != ENCRYPTED:
            return (
                f"{found}: the first picture comes at packet {answer['late'] + 1}; "
                "before it there is no key frame that can be decoded"
            )
        reason = answer["problem"] or first_message(answer["decoder_stderr"])
        return f"{found}: {reason}" if reason else found

    def _report(self, reader: str, answer: Message) -> DecodeReport:
        index, decoded = self.index, answer["decoded"]
        clean = self._is_clean(reader, answer)
        expected = decoded if clean else max(self.expected, decoded)
        error = ("" if clean else self._flaw(answer)) or _container_problem(index)
        missing = expected - decoded
        return DecodeReport(
            status="ok" if not error and not missing else "partial",
            error=error,
            decoder=reader,
            attempts=tuple(self.errors),
            frames_expected=expected,
            frames_decoded=decoded,
            frames_duplicated=answer["duplicated"],
            frames_missing=missing,
            frames_damaged=answer["damaged"],
            **index_fields(index),
        )

    def _failure_report(self) -> DecodeReport:
        status = next((s for s in FAILURE_STATUSES if s in self.failures), "undecodable")
        return DecodeReport(
            status=status,
            error="; ".join(self.errors) or "no frame could be decoded",
            attempts=tuple(self.errors),
            frames_expected=self.expected,
            frames_missing=self.expected,
            **index_fields(self.index),
        )


def _container_problem(index: VideoIndex) -> str:
    """Describe what is missing in a container, however well the rest of it was decoded."""
    if index.truncated and not index.problem:
        held = index.packets + index.packets_empty
        return f"the header claims {index.frames_from_header} frames, the file holds {held}"
    return index.problem


def first_message(text: str) -> str:
    """Return the first line that a library printed, without addresses and time stamps."""
    first = text.strip().splitlines()[0] if text.strip() else ""
    return re.sub(r" @ 0x[0-9a-f]+|\[\d\d:\d\d:\d\d\] |\S*/src/\S+: ", "", first)[:200]


def _failure_status(error: DecoderLost | VideoError) -> str:
    if isinstance(error, VideoError):
        return error.status
    return "decode_timeout" if isinstance(error, JobTimeout) else "decode_crash"


def index_fields(index: VideoIndex) -> dict[str, Any]:
    """Convert an index to fields of a `DecodeReport`."""
    return {
        "codec": index.codec,
        "pixel_format": index.pixel_format,
        "width": index.width,
        "height": index.height,
        "rotation": index.rotation,
        "duration_seconds": index.duration_seconds,
        "frame_rate": index.frame_rate,
        "variable_frame_rate": index.variable_frame_rate,
        "longest_gap_seconds": index.longest_gap_seconds,
        "edit_list": index.packets_discarded > 0,
        "video_streams": index.video_streams,
        "packets": index.packets,
        "packets_discarded": index.packets_discarded,
        "frames_from_header": index.frames_from_header,
        "frame_rate_assumed": index.frame_rate_assumed,
        "decoding_version": decoding_version(),
    }
