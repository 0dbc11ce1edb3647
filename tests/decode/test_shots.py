"""Shots: found exactly, by every reader, in whole videos and in chunks."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest

from pipeline.config import DecodeOptions, Geometry, Sampling
from pipeline.decode.fallback import decode_chunk, index_video
from pipeline.decode.process_pool import DecodePool
from pipeline.decode.sampling import SamplePlan
from pipeline.decode.shared_memory import discard_buffer
from pipeline.decode.shot_assembly import assemble_shots
from pipeline.decode.shot_detector import ShotDetector, merge_chunks
from pipeline.decode.shot_pictures import picture_of_luma, picture_of_rgb
from pipeline.records import Chunk
from pipeline.sources.discovery import find_videos
from tests.videos import turn

WIDTH, HEIGHT = 160, 120


def scene(seed):
    """Draw a textured picture of 320 × 240."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(image, (320, 240), interpolation=cv2.INTER_CUBIC)


def shot(seed, count, speed=0.5):
    """Pan slowly over a scene: frames (H, W, 3)."""
    image = scene(seed)
    return [image[40 : 40 + HEIGHT, x : x + WIDTH] for x in (np.arange(count) * speed).astype(int)]


def dissolve(before, after, count):
    """Join two shots by a dissolve of `count` frames."""
    mixed = [
        cv2.addWeighted(a, 1 - (n + 1) / (count + 1), b, (n + 1) / (count + 1), 0)
        for n, (a, b) in enumerate(zip(before[-count:], after[:count], strict=True))
    ]
    return [*before[:-count], *mixed, *after[count:]]


def fade(before, after, count):
    """Join two shots by a fade through black, `count` frames each way."""
    out = [(f * (1 - (n + 1) / count)).astype(np.uint8) for n, f in enumerate(before[-count:])]
    back = [(f * ((n + 1) / count)).astype(np.uint8) for n, f in enumerate(after[:count])]
    return [*before[:-count], *out, *([out[-1]] * 3), *back, *after[count:]]


def flash(frames, at):
    """Brighten two frames."""
    return [
        np.clip(f.astype(int) + 110, 0, 255).astype(np.uint8) if at <= n < at + 2 else f
        for n, f in enumerate(frames)
    ]


def detect(frames, rate=25.0, edges=()):
    """Find the transitions of frames that are decoded in chunks."""
    edges = [0, *edges, len(frames)]
    found = []
    for start, stop in pairwise(edges):
        detector = ShotDetector(rate, starts_video=start == 0)
        for number in range(start, stop):
            detector.add(picture_of_rgb(frames[number]), number, number / rate)
        result = detector.finish(ends_video=stop == len(frames))
        found.append({**json.loads(json.dumps(result)), "exact": True})
    return assemble_shots(found).transitions


def kinds(transitions):
    return [(t.frame_index, t.kind) for t in transitions]


def write(path, frames, times=None, gop=250):
    """Encode frames at 25 frames/s, or at given times in seconds."""
    unit = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        options = {"g": str(gop), "crf": "23", "bf": "0"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if times is not None:
            stream.time_base = stream.codec_context.time_base = unit
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[number] * 1000), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode(pool, path, edges=()):
    """Decode a video in chunks of samples, and give its transitions."""
    sampling = Sampling(fps=8)
    (video,) = find_videos([str(path)])

    def job(process):
        index = index_video(process, video)
        total = SamplePlan(index, sampling).num_samples
        bounds = [0, *edges, total]
        return [
            decode_chunk(
                process,
                Chunk(video, index, start, stop, total),
                sampling,
                Geometry(48, 64),
                discard_buffer(),
                shots=True,
            ).shots
            for start, stop in pairwise(bounds)
        ]

    return assemble_shots(pool.submit(job).result()).transitions


class TestDetector:
    def test_a_cut_is_found_at_its_frame(self):
        (found,) = detect([*shot(1, 37), *shot(2, 40)])

        assert (found.frame_index, found.kind, found.duration_seconds) == (37, "cut", 0)
        assert found.seconds == 37 / 25
        assert found.score > 0.5

    def test_moving_pictures_have_no_cut(self):
        assert detect(shot(1, 60, speed=0)) == ()
        assert detect(shot(1, 60, speed=2.5)) == ()

    def test_a_flash_is_no_cut(self):
        assert detect(flash(shot(1, 60), 30)) == ()

    def test_a_dissolve_is_found_in_its_middle(self):
        (found,) = detect(dissolve(shot(1, 60), shot(2, 60), 20))

        assert found.kind == "dissolve"
        assert 44 <= found.frame_index <= 56
        assert 0.3 <= found.duration_seconds <= 1.6

    def test_a_fade_is_one_transition(self):
        (found,) = detect(fade(shot(1, 60), shot(2, 60), 10))

        assert found.kind == "fade"
        assert 58 <= found.frame_index <= 66

    def test_a_fade_in_at_the_start_is_no_transition(self):
        black = [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 10

        assert detect(fade(black, shot(2, 60), 10)) == ()

    @pytest.mark.parametrize("rate", [10.0, 25.0, 60.0])
    def test_chunks_give_what_the_whole_gives(self, rate):
        frames = [*dissolve(shot(1, 150), shot(2, 150), 20), *shot(3, 90), *shot(4, 100)]
        whole = detect(frames, rate)
        rng = np.random.default_rng(0)

        assert len(whole) >= 2
        for pieces in (1, 2, 5):
            edges = np.sort(rng.choice(np.arange(1, len(frames)), pieces, replace=False))
            assert detect(frames, rate, edges.tolist()) == whole

    def test_a_video_of_one_frame_has_one_shot(self):
        assert detect(shot(1, 1)) == ()
        assert merge_chunks([]) == []


class TestPictures:
    def test_luma_and_rgb_give_the_same_picture(self):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(scene(5)), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        plane = frame.planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:, : frame.width]
        rgb = frame.to_ndarray(format="rgb24")

        for turns in (0, 90, 180, 270):
            ours = picture_of_luma(luma, full_range=False, rotation=turns)
            theirs = picture_of_rgb(np.ascontiguousarray(np.rot90(rgb, -turns // 90)))
            assert np.abs(ours.astype(int) - theirs).mean() < 4


@pytest.fixture(scope="module")
def pools():
    opened = {
        name: DecodePool(DecodeOptions(reader=name, workers=1))
        for name in ("pyav", "opencv", "decord")
    }
    yield opened
    for pool in opened.values():
        pool.close()


class TestFiles:
    FRAMES = (*shot(1, 40), *shot(2, 45), *shot(3, 41))

    def test_every_reader_gives_the_same_exact_shots(self, pools, tmp_path):
        path = write(tmp_path / "a.mp4", self.FRAMES)

        for pool in pools.values():
            found = decode(pool, path)
            assert kinds(found) == [(40, "cut"), (85, "cut")]
            assert [t.seconds for t in found] == pytest.approx([1.6, 3.4])

    def test_variable_frame_rates(self, pools, tmp_path):
        rng = np.random.default_rng(1)
        times = np.cumsum(rng.choice([0.02, 0.04, 0.1], len(self.FRAMES))) - 0.02
        path = write(tmp_path / "a.mkv", self.FRAMES, times.tolist())

        for pool in pools.values():
            found = decode(pool, path)
            assert kinds(found) == [(40, "cut"), (85, "cut")]
            expected = [times[40] - times[0], times[85] - times[0]]
            assert [t.seconds for t in found] == pytest.approx(expected, abs=2e-3)

    def test_rotated_files(self, pools, tmp_path):
        path = turn(write(tmp_path / "a.mp4", self.FRAMES), (0, 1, -1, 0))

        for pool in pools.values():
            assert kinds(decode(pool, path)) == [(40, "cut"), (85, "cut")]

    def test_chunks_of_a_file(self, pools, tmp_path):
        path = write(tmp_path / "a.mp4", self.FRAMES * 4, gop=30)
        whole = decode(pools["pyav"], path)

        assert len(whole) == 11
        for edges in ([40], [13, 14, 90], [7, 33, 61, 100]):
            assert decode(pools["pyav"], path, edges) == whole
