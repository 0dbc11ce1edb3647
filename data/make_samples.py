"""
Draw the sample videos in this folder.

    python data/make_samples.py

Everything is drawn from one seed by `data.camera_motion.drawing`; nothing is read. The result is:

    videos/<movement>.mp4    one camera movement each
    videos/cuts.mp4          three shots
    videos/variable_rate.mp4 a pan recorded at a rate that varies
    videos/broken.mp4        a file that lost its second half
    image_sequence/          a tilt as numbered images
    labels.csv               what the camera does
"""

from __future__ import annotations

import csv
import math
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from data.camera_motion.drawing import LABELS, Pose, colours, draw_moving_object, draw_scene, view

HERE = Path(__file__).resolve().parent
SIZE = (240, 320)
ASPECT = SIZE[1] / SIZE[0]
FPS = 24
SECONDS = 4
SPEED_A_SECOND = {"pan": 0.28, "tilt": 0.28, "zoom": 0.22, "roll": 0.22}
SEED = 20_000


def main() -> None:
    """Draw all samples."""
    rng = np.random.default_rng(SEED)
    (HERE / "videos").mkdir(exist_ok=True)
    rows = []
    for number, label in enumerate(LABELS):
        pictures = shot(rng, number, SECONDS * FPS)
        write(HERE / "videos" / f"{label}.mp4", pictures)
        rows.append((f"videos/{label}.mp4", label))
    cuts = [p for label in (0, 2, 5) for p in shot(rng, label, 2 * FPS)]
    write(HERE / "videos" / "cuts.mp4", cuts)
    times = np.cumsum(rng.uniform(0.02, 0.09, SECONDS * FPS))
    pan = LABELS.index("pan_left")
    write(HERE / "videos" / "variable_rate.mp4", shot(rng, pan, len(times), times), times)
    rows.append(("videos/variable_rate.mp4", "pan_left"))
    whole = write(HERE / "videos" / "broken.mp4", shot(rng, 1, SECONDS * FPS))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    write_images(HERE / "image_sequence", shot(rng, LABELS.index("tilt_down"), 36, rate=12))
    rows.append(("image_sequence", "tilt_down"))
    with (HERE / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "label"), *rows])


def shot(
    rng: np.random.Generator,
    label: int,
    count: int,
    times: np.ndarray | None = None,
    rate: float = FPS,
) -> list[np.ndarray]:
    """Draw one shot of a camera that does what its label says, with things moving before it."""
    scene = draw_scene(rng)
    moving_object = draw_moving_object(rng, draw_scene(rng), ASPECT)
    table = colours(rng).reshape(1, 256, 3)
    pose = Pose(*rng.uniform(200, 560, 2), math.log(rng.uniform(170, 260)), 0.0)
    speed = SPEED_A_SECOND.get(LABELS[label].split("_")[0], 0.0)
    moments = np.arange(count) / rate if times is None else times
    pictures = []
    for step, moment in enumerate(moments):
        if step:
            pose = pose.moved(label, speed * float(moment - moments[step - 1]), ASPECT)
        picture = cv2.LUT(cv2.merge([view(scene, pose, ASPECT, SIZE)] * 3), table)
        moving_object.draw(picture, moment * 8)
        pictures.append(np.asarray(picture, np.uint8))
    return pictures


def write(path: Path, pictures: list[np.ndarray], times: np.ndarray | None = None) -> Path:
    """Write H.264; the header goes first, so that a file which breaks off can still be read."""
    base = Fraction(1, 1000) if times is not None else Fraction(1, FPS)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "26"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number if times is None else round(1000 * (times[number] - times[0]))
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_images(folder: Path, pictures: list[np.ndarray]) -> None:
    """Write numbered images."""
    folder.mkdir(exist_ok=True)
    for number, picture in enumerate(pictures, 1):
        cv2.imwrite(str(folder / f"img_{number:05}.jpg"), picture[:, :, ::-1])


if __name__ == "__main__":
    main()
