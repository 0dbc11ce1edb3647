"""
Decode one video, or one chunk of it, whatever it takes: reader after reader until one is clean.

Every file gets a verdict. A reader that hangs, crashes, refuses, miscounts or complains is followed
by the next; what the better of them could decode is used and counted.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.config import Geometry, Sampling
from pipeline.decode.downscale import decoded_size
from pipeline.decode.process_pool import DecodeProcess, JobTimeout
from pipeline.decode.readers import choose_readers, packets_are_pictures
from pipeline.decode.sampling import SamplePlan
from pipeline.decode.shared_memory import SPARE_IMAGES, FrameBuffer
from pipeline.decode.worker import Message
from pipeline.errors import DecoderLost, VideoError
from pipeline.records import Chunk, DecodeReport, FrameBatch, Video, VideoIndex


def index_video(process: DecodeProcess, video: Video) -> VideoIndex:
    """
    Read what the container of a video says.

    Raises:
        VideoError: the video cannot be used, and why.
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
        index = VideoIndex.from_json(_asked_twice(process, job)["index"])
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


def _asked_twice(process: DecodeProcess, job: Message) -> Message:
    """Ask again where the process died: only this one way to index a file, and others kill too."""
    try:
        return _asked(process, job)
    except JobTimeout:
        raise
    except DecoderLost:
        return _asked(process, job)


def _asked(process: DecodeProcess, job: Message) -> Message:
    answer = process.ask(job)
    if "refused" in answer:  # an exception nobody thought of: no worse than an unknown format
        raise VideoError("undecodable", answer["refused"])
    return answer


def num_images(chunk: Chunk) -> int:
    """Tell how many pictures a chunk should give, context included."""
    return chunk.stop - chunk.start + chunk.context


def new_buffer(chunk: Chunk, geometry: Geometry) -> FrameBuffer:
    """Make room for the pictures of a chunk as they are decoded for a geometry."""
    assert chunk.index is not None
    size = decoded_size(chunk.index.height, chunk.index.width, geometry)
    return FrameBuffer(np.empty((num_images(chunk), *size, 3), np.uint8))


def decode_chunk(
    process: DecodeProcess,
    chunk: Chunk,
    sampling: Sampling,
    geometry: Geometry,
    buffer: FrameBuffer,
) -> FrameBatch:
    """
    Decode the samples of a chunk.

    Args:
        process: that decodes.
        chunk: of a video whose container was read.
        sampling: which frames.
        geometry: for which they are shrunk.
        buffer: where their pictures go, `num_images` of them.

    Returns:
        What could be decoded, which may be nothing, and the verdict.
    """
    index = chunk.index
    assert index is not None
    size = decoded_size(index.height, index.width, geometry)
    job: Message = {
        "do": "decode",
        "location": chunk.video.location,
        "sampling": {"fps": sampling.fps, "every": sampling.every},
        "start": chunk.start,
        "stop": chunk.stop,
        "context": chunk.context,
        "size": list(size),
        "capacity": num_images(chunk) + SPARE_IMAGES,
        "by_order": False,
    }
    attempts = ReaderFallback(process, chunk, sampling, job, buffer)
    answer, report = attempts.run()
    samples = np.asarray(answer["sample_index"], dtype=np.int64)
    return FrameBatch(
        chunk=chunk,
        images=buffer.images[: len(samples)],
        sample_index=samples,
        frame_index=np.asarray(answer["frame_index"], dtype=np.int64),
        pts_seconds=np.asarray(answer["pts_seconds"], dtype=np.float64),
        report=replace(report, frames_sampled=int(np.sum(samples >= chunk.start))),
        resized=buffer.resize is not None,
    )


NOTHING: Message = {
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


class ReaderFallback:
    """The attempts at one chunk, in order."""

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
        self.said: list[str] = []
        self.lost: set[str] = set()
        """Statuses of readers that were lost, or gave up on the file."""

    def run(self) -> tuple[Message, DecodeReport]:
        """
        Try readers until one gives everything.

        PyAV is the referee: what it decodes of a damaged file is what there is. Where it gives
        nothing, or is lost itself, the reader that gave most is taken.
        """
        best: tuple[int, str, Message] | None = None
        last = ""
        for name in self._readers():
            answer, last = self._ask(name), name
            if answer is None:
                continue
            worth = answer["decoded"] + len(answer["sample_index"])
            if self._clean(name, answer) or (name == "pyav" and worth):
                return answer, self._report(name, answer)
            if best is None or worth > best[0]:
                best = (worth, name, answer)
            self.said.append(f"{name}: {self._flaw(answer)}")
        if best is None or best[0] == 0:
            return NOTHING, self._nothing()
        _, name, answer = best
        if name != last:  # a later attempt may have overwritten the pictures
            again = self._ask(name)
            if again is None:
                return NOTHING, self._nothing()
            answer = again
        self.said = [said for said in self.said if not said.startswith(f"{name}:")]
        return answer, self._report(name, answer)

    def _readers(self) -> tuple[str, ...]:
        forced = self.process.options.reader
        middle = self.chunk.start > 0
        chosen = choose_readers(self.index, sparse=self.sparse, middle=middle)
        if forced == "auto" or chosen == ("images",):
            return chosen
        return (forced, *(name for name in chosen if name != forced))

    def _ask(self, reader: str) -> Message | None:
        answer = self._ask_once(reader, by_order=False)
        if answer is not None and answer["backwards"]:
            # Frames come in the order of display: where their times do not rise, the container
            # has labelled packets in the order of storage.
            answer = self._ask_once(reader, by_order=True)
        return answer

    def _ask_once(self, reader: str, *, by_order: bool) -> Message | None:
        fresh = self.process.known != self.chunk.video.location
        job = {
            **self.job,
            "reader": reader,
            "by_order": by_order,
            "index": self.index.to_json() if fresh else None,
        }
        try:
            answer = self.process.ask(job, self.buffer.put)
        except (DecoderLost, VideoError) as error:
            self.lost.add(_lost_status(error))
            self.said.append(f"{reader}: {error}")
            return None
        self.process.known = self.chunk.video.location
        if "refused" in answer:
            self.said.append(f"{reader}: {plain_words(answer['refused'])}")
            return None
        return answer

    def _clean(self, reader: str, answer: Message) -> bool:
        if answer["problem"] or answer["damaged"] or answer["full"]:
            return False
        if reader == "pyav" and not packets_are_pictures(self.index):
            # it reports every failure: packets without a picture are simply that, but at the start
            late = answer["late"] and not self.chunk.start
            return bool(answer["decoded"] and not late) or not self.expected
        return bool(answer["decoded"] == self.expected and not answer["complaint"])

    def _flaw(self, answer: Message) -> str:
        if answer["full"]:
            return f"more than the {self.expected} frames that the container holds"
        found = f"{answer['decoded']} of {self.expected} frames"
        if answer["damaged"] and not answer["problem"]:
            return f"{found}, {answer['damaged']} of them damaged"
        reason = answer["problem"] or plain_words(answer["complaint"])
        return f"{found}: {reason}" if reason else found

    def _report(self, reader: str, answer: Message) -> DecodeReport:
        index, decoded = self.index, answer["decoded"]
        clean = self._clean(reader, answer)
        expected = decoded if clean else max(self.expected, decoded)
        error = ("" if clean else self._flaw(answer)) or _short(index)
        missing = expected - decoded
        return DecodeReport(
            status="ok" if not error and not missing else "partial",
            error=error,
            decoder=reader,
            attempts=tuple(self.said),
            frames_expected=expected,
            frames_decoded=decoded,
            frames_duplicated=answer["duplicated"],
            frames_missing=missing,
            frames_damaged=answer["damaged"],
            **facts(index),
        )

    def _nothing(self) -> DecodeReport:
        kinds = ("decode_timeout", "out_of_memory", "decode_crash", "unreadable")
        status = next((kind for kind in kinds if kind in self.lost), "undecodable")
        return DecodeReport(
            status=status,
            error="; ".join(self.said) or "no frame could be decoded",
            attempts=tuple(self.said),
            frames_expected=self.expected,
            frames_missing=self.expected,
            **facts(self.index),
        )


def _short(index: VideoIndex) -> str:
    """Say what a container lacks, however well the rest of it was decoded."""
    if index.truncated and not index.problem:
        held = index.packets + index.packets_empty
        return f"the header claims {index.frames_from_header} frames, the file holds {held}"
    return index.problem


def plain_words(complaint: str) -> str:
    """Take the first thing that a library printed, without its addresses and time stamps."""
    first = complaint.strip().splitlines()[0] if complaint.strip() else ""
    return re.sub(r" @ 0x[0-9a-f]+|\[\d\d:\d\d:\d\d\] |\S*/src/\S+: ", "", first)[:200]


def _lost_status(error: DecoderLost | VideoError) -> str:
    if isinstance(error, VideoError):
        return error.status
    return "decode_timeout" if isinstance(error, JobTimeout) else "decode_crash"


def facts(index: VideoIndex) -> dict[str, Any]:
    """Give what the container says, as fields of a `DecodeReport`."""
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
    }
