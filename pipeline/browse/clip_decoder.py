"""Decode short parts of videos for people to look at, and encode them for a browser."""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from fractions import Fraction

import av
import cv2
import numpy as np

from pipeline.config import DecodeOptions, Geometry, Sampling
from pipeline.decode.fallback import decode_chunk, index_video, new_buffer
from pipeline.decode.process_pool import DecodePool, DecodeProcess
from pipeline.decode.sampling import SamplePlan, frames_are_samples
from pipeline.errors import VideoError
from pipeline.records import Chunk, FrameBatch, Images, Seconds, Video, VideoIndex

MAX_SIDE = 640
"""Of decoded frames, in pixels."""
MIN_PLAYED_FPS, MAX_PLAYED_FPS = 5.0, 30.0
MAX_PLAYED_FRAMES = 300
"""Of a converted clip, which is in memory as a whole: longer clips have fewer frames a second, and
those longer than this number at the lowest rate are cut off."""
MAX_INDEXES = 256
"""Containers whose index is kept."""
WEBP_QUALITY = 70


class ClipDecoder:
    """
    Decodes parts of videos in decode processes, so that a file that hangs a decoder is killed.

    Args:
        workers: number of decode processes.
    """

    def __init__(self, workers: int = 2) -> None:
        self._pool = DecodePool(DecodeOptions(workers=workers))
        self._indexes: OrderedDict[str, VideoIndex] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Kill the decode processes."""
        self._pool.close()

    def frames(
        self, video: Video, start_seconds: float, end_seconds: float, fps: float, max_side: int
    ) -> Images:
        """
        Decode the frames that a player shows from a start to an end, at a constant rate.

        Args:
            video: its file.
            start_seconds, end_seconds: part of the video; at least one frame is decoded.
            fps: frames per second.
            max_side: the longer side of the frames, in pixels; smaller frames keep their size.

        Returns:
            Images (T, H, W, 3), H and W even.

        Raises:
            VideoError: the video cannot be decoded.
        """

        def decode(process: DecodeProcess) -> Images:
            index = self._index(process, video)
            height, width = fit(index.height, index.width, max_side)
            geometry = Geometry(height, width, reducing_gap=1)
            sampling = Sampling(fps=fps)
            first, stop = _samples(index, sampling, start_seconds, end_seconds)
            chunk = Chunk(video, index, first, stop, SamplePlan(index, sampling).num_samples)
            batch = decode_chunk(process, chunk, sampling, geometry, new_buffer(chunk, geometry))
            if not len(batch.images):
                raise VideoError("undecodable", batch.report.error or "no frame could be decoded")
            return _at_times(batch, _times(start_seconds, end_seconds, fps))

        return self._pool.submit(decode).result()

    def _index(self, process: DecodeProcess, video: Video) -> VideoIndex:
        with self._lock:
            found = self._indexes.get(video.location)
            if found is not None:
                self._indexes.move_to_end(video.location)
                return found
        index = index_video(process, video)
        if not len(index.pts):
            raise VideoError("undecodable", index.problem or "no frame could be decoded")
        with self._lock:
            self._indexes[video.location] = index
            if len(self._indexes) > MAX_INDEXES:
                self._indexes.popitem(last=False)
        return index

    def image(self, video: Video, seconds: float, max_side: int) -> Images:
        """Decode the frame (H, W, 3) that a player shows at a time. Raises as `frames`."""
        fps = 1000.0  # the sample after a time is at most a millisecond later
        image: Images = self.frames(video, seconds, seconds, fps, max_side)[0]
        return image

    def mp4(self, video: Video, start_seconds: float, end_seconds: float) -> bytes:
        """Convert a part of a video to an MP4 file that browsers play. Raises as `frames`."""
        end_seconds = min(end_seconds, start_seconds + MAX_PLAYED_FRAMES / MIN_PLAYED_FPS)
        duration = max(end_seconds - start_seconds, 1e-3)
        fps = min(max(MIN_PLAYED_FPS, MAX_PLAYED_FRAMES / duration), MAX_PLAYED_FPS)
        return encode_mp4(self.frames(video, start_seconds, end_seconds, fps, MAX_SIDE), fps)


def _times(start_seconds: float, end_seconds: float, fps: float) -> Seconds:
    """Return the times of the images of a part, at least one."""
    count = max(1, math.ceil((end_seconds - start_seconds) * fps - 1e-6))
    return start_seconds + np.arange(count) / fps


def _samples(
    index: VideoIndex, sampling: Sampling, start_seconds: float, end_seconds: float
) -> tuple[int, int]:
    """Return the samples [first, stop) that show a part of a video, at least one."""
    total = SamplePlan(index, sampling).num_samples
    if frames_are_samples(index, sampling):
        edges = np.searchsorted(index.seconds, [start_seconds + 1e-6, end_seconds - 1e-6], "right")
        first, stop = int(edges[0]) - 1, int(edges[1])
    else:
        assert sampling.fps
        first = math.ceil(start_seconds * sampling.fps - 1e-6)
        stop = math.ceil(end_seconds * sampling.fps - 1e-6)
    first = min(max(first, 0), total - 1)
    return first, max(min(stop, total), first + 1)


def _at_times(batch: FrameBatch, times: Seconds) -> Images:
    """Return the image that is shown at each time, (T, H, W, 3)."""
    shown = np.searchsorted(batch.pts_seconds, times + 1e-3, "right") - 1
    return batch.images[np.maximum(shown, 0)]


def fit(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Scale a size down to a longer side, and round it to even numbers, as H.264 needs."""
    scale = min(1.0, max_side / max(height, width))
    even = (max(2, 2 * round(side * scale / 2)) for side in (height, width))
    return next(even), next(even)


def encode_webp(image: Images) -> bytes:
    """Encode an RGB image (H, W, 3) as WebP."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    written, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    if not written:
        raise ValueError(f"OpenCV cannot encode an image of shape {image.shape} as WebP")
    return bytes(data)


def encode_mp4(images: Images, fps: float) -> bytes:
    """Encode RGB images (T, H, W, 3), H and W even, as H.264 in an MP4 file."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "23"}
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
