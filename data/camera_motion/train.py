"""
Train the bundled recognizer `camera-motion` on synthetic video only.

    python -m data.camera_motion.train

All videos are drawn during training, from one seed; no data is read. The result is written to
`pipeline/recognizers/camera_motion`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from data.camera_motion.drawing import IGNORED, LABELS, Grey, draw_scene
from data.camera_motion.shots import draw_sequence
from pipeline.config import ClipWindows, Sampling
from pipeline.encode.frame_pair import HEIGHT, WIDTH, FramePairNetwork, frame_pair_backbone
from pipeline.recognition.recognizer import BackboneSpec, CutSpec, Recognizer, save_recognizer
from pipeline.temporal.models import TemporalModel
from pipeline.temporal.options import TemporalOptions

OUT = Path(__file__).resolve().parents[2] / "pipeline" / "recognizers" / "camera_motion"
STEPS = 6000
SAMPLE_FPS = 8.0
CLIP_SECONDS = 2.0
FRAMES = 16
SEQUENCES = 32
SCENES = 48
BATCHES_PER_POOL = 150
"""Batches per set of scenes."""
OPTIONS = TemporalOptions(cell="gru", layers=1, size=64, pooling="mean")
USES = 3
"""Times that each batch is used, with different random flips: drawing is slow."""
REUSE_DISTANCE = 20
"""Batches between two uses of the same batch."""
FLIPPED_HORIZONTALLY = np.array([0, 2, 1, 3, 4, 5, 6, 8, 7])
"""Label after a horizontal flip."""
FLIPPED_VERTICALLY = np.array([0, 1, 2, 4, 3, 5, 6, 8, 7])
"""Label after a vertical flip."""
REVERSED_IN_TIME = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7])
"""Label if the frames are in reverse order."""
TEST_SEED = 1_000_000
CUT_LOGIT = -1.5
"""Threshold of a cut, below 0: a missed cut spoils a clip, a false one only shortens it."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class SyntheticBatches(Dataset[Batch]):
    """Batches of synthetic videos: batch i depends on the seed and i only."""

    def __init__(
        self,
        seed: int,
        batches: int,
        uses: int = 1,
        *,
        only_visible: bool = False,
        people: bool = True,
    ) -> None:
        self.seed, self.batches, self.uses = seed, batches, uses
        self.only_visible, self.people = only_visible, people
        self._scenes: tuple[int, list[Grey]] = (-1, [])
        self._drawn: dict[int, Batch] = {}

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Batch:
        cv2.setNumThreads(1)
        newest, use = divmod(number, self.uses)
        drawing = max(0, newest - use * REUSE_DISTANCE)
        if drawing not in self._drawn:
            self._drawn[drawing] = self._draw(drawing)
        for old in [d for d in self._drawn if d <= newest - (self.uses - 1) * REUSE_DISTANCE]:
            if old != drawing:
                del self._drawn[old]
        return flip_batch(self._drawn[drawing], np.random.default_rng([self.seed, 2, number]))

    def _draw(self, number: int) -> Batch:
        pool = number // BATCHES_PER_POOL
        if self._scenes[0] != pool:
            rng = np.random.default_rng([self.seed, 0, pool])
            self._scenes = (pool, [draw_scene(rng) for _ in range(SCENES)])
        rng = np.random.default_rng([self.seed, 1, number])
        drawn = [
            draw_sequence(
                rng,
                self._scenes[1],
                FRAMES,
                (HEIGHT, WIDTH),
                only_visible=self.only_visible,
                people=self.people,
            )
            for _ in range(SEQUENCES)
        ]
        return (
            torch.from_numpy(np.stack([sequence.images for sequence in drawn])),
            torch.from_numpy(np.stack([sequence.labels for sequence in drawn])),
            torch.from_numpy(np.stack([sequence.shot for sequence in drawn])),
            torch.from_numpy(np.array([not sequence.dissolve for sequence in drawn])),
        )


def flip_batch(batch: Batch, rng: np.random.Generator) -> Batch:
    """Flip a batch at random horizontally, vertically and in time, with its labels."""
    images, labels, shots, clear = batch
    for axis, names in ((3, FLIPPED_HORIZONTALLY), (2, FLIPPED_VERTICALLY), (1, REVERSED_IN_TIME)):
        if rng.random() < 0.5:
            continue
        images = images.flip(axis)
        known = torch.from_numpy(names)[labels.clamp(min=0)]
        labels = torch.where(labels == IGNORED, IGNORED, known)
        if axis == 1:  # the motion to a frame becomes the motion to the frame before
            labels = torch.cat([torch.full_like(labels[:, :1], IGNORED), labels.flip(1)[:, :-1]], 1)
            shots = (shots.amax(1, keepdim=True) - shots).flip(1)
    return images, labels, shots, clear


class CameraMotion(nn.Module):
    """The frame pair network and the temporal model."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = FramePairNetwork()
        self.temporal = TemporalModel(self.backbone.feature_size, len(LABELS), OPTIONS)
        with torch.no_grad():
            self.temporal.inputs.scale[-1] = 0.0  # the logit of a cut is not an input

    def features(self, images: Tensor) -> Tensor:
        """Encode (S, T, H, W, 3) uint8 to (S, T, D); the first frame is paired with itself."""
        x = images.permute(0, 1, 4, 2, 3).float() / 255
        pairs = torch.cat([torch.cat([x[:, :1], x[:, :-1]], dim=1), x], dim=2)
        pairs = pairs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        encoded: Tensor = self.backbone(pairs)
        return encoded.view(*x.shape[:2], -1)


def split_shots(features: Tensor, labels: Tensor, shots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make one sequence per shot: features (R, T, D), labels (R, T), mask (R, T)."""
    rows, truth, masks = [], [], []
    for number in range(int(shots.max()) + 1):
        here = shots == number  # (S, T)
        # the first frame of a shot is paired with a frame of another shot, or with itself
        first = here & ~functional.pad(here[:, :-1], (1, 0))
        some = here.sum(1) > 1
        rows.append(features[some])
        truth.append(labels[some])
        masks.append((here & ~first)[some])
    return torch.cat(rows), torch.cat(truth), torch.cat(masks)


def losses(model: CameraMotion, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the losses of frames, clips, and cuts."""
    images, labels, shots, clear = batch
    features = model.features(images)
    x, truth, mask = split_shots(features, labels, shots)
    logits = model.temporal(x, mask)
    truth = torch.where(mask, truth, IGNORED)
    frame_loss = functional.cross_entropy(
        logits.frames.transpose(1, 2), truth, ignore_index=IGNORED
    )
    clip_truth = _common_label(truth)
    clip_loss = functional.cross_entropy(logits.clips, clip_truth, ignore_index=IGNORED)
    cut = (shots[:, 1:] != shots[:, :-1]).float()
    mask = clear.unsqueeze(1).expand_as(cut)
    cut_loss = functional.binary_cross_entropy_with_logits(features[:, 1:, -1][mask], cut[mask])
    return frame_loss, clip_loss, cut_loss


def _common_label(truth: Tensor) -> Tensor:
    """Give the common label of the frames of each sequence, (R,); IGNORED if they differ."""
    clear = truth != IGNORED
    high = torch.where(clear, truth, -1).amax(1)
    low = torch.where(clear, truth, len(LABELS)).amin(1)
    return torch.where((high == low) & (clear.sum(1) >= 3), high, IGNORED)


def train(steps: int, seed: int, workers: int) -> CameraMotion:
    """Train on synthetic batches. Returns the exponential moving average of the weights."""
    torch.manual_seed(seed)
    model = CameraMotion().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1
    )
    loader = DataLoader(SyntheticBatches(seed, steps, USES), batch_size=None, num_workers=workers)
    begin = time.monotonic()
    for step, batch in enumerate(loader):
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts = losses(model, batch)
            loss = parts[0] + 0.5 * parts[1] + parts[2]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _update_average(average, model, min(0.999, (1 + step) / (10 + step)))
        if step % 100 == 0 or step + 1 == steps:
            values = ", ".join(f"{p.item():.3f}" for p in parts)
            print(f"{step:5d}  {values}  {time.monotonic() - begin:6.0f} s", flush=True)
    return average.eval()


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.dtype.is_floating_point:
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


@torch.inference_mode()
def evaluate(
    model: CameraMotion, batches: int, workers: int, *, only_visible: bool, people: bool = True
) -> dict[str, float]:
    """
    Evaluate clips, frames and cuts on synthetic video from another seed.

    Args:
        model: to be evaluated.
        batches: number of batches.
        workers: processes that draw.
        only_visible: ignore motions that are not visible; it has no influence on cuts.
        people: whether pairs of people may walk towards each other or apart.
    """
    correct = total = frame_correct = frame_total = 0
    hits = found = cuts = 0
    model.eval()
    drawn = SyntheticBatches(TEST_SEED, batches, only_visible=only_visible, people=people)
    for batch in DataLoader(drawn, batch_size=None, num_workers=workers):
        images, labels, shots, clear = batch
        features = model.features(images)
        x, truth, mask = split_shots(features, labels, shots)
        logits = model.temporal(x, mask)
        truth = torch.where(mask, truth, IGNORED)
        agreed = _common_label(truth)
        known = agreed != IGNORED
        correct += int((logits.clips.argmax(1) == agreed)[known].sum())
        total += int(known.sum())
        frame_correct += int((logits.frames.argmax(2) == truth).sum())
        frame_total += int((truth != IGNORED).sum())
        cut = (shots[:, 1:] != shots[:, :-1])[clear]
        predicted = (features[:, 1:, -1] > CUT_LOGIT)[clear]
        hits, found, cuts = (
            hits + int((cut & predicted).sum()),
            found + int(predicted.sum()),
            cuts + int(cut.sum()),
        )
    return {
        "clips": total,
        "clip_accuracy": correct / total,
        "frame_accuracy": frame_correct / frame_total,
        "cut_precision": hits / max(1, found),
        "cut_recall": hits / max(1, cuts),
        "cut_f1": 2 * hits / max(1, found + cuts),
    }


def as_recognizer(model: CameraMotion, notes: dict[str, object]) -> Recognizer:
    """Make a recognizer of the trained networks."""
    backbone = frame_pair_backbone(model.backbone)
    return Recognizer(
        name="camera-motion",
        labels=LABELS,
        sampling=Sampling(fps=SAMPLE_FPS),
        clips=ClipWindows(seconds=CLIP_SECONDS),
        backbone=BackboneSpec(
            name=backbone.name,
            weights_hash=backbone.weights_hash,
            feature_size=backbone.feature_size,
            context=backbone.previous_frames,
            precision="float32",
        ),
        temporal=OPTIONS,
        model=model.temporal.eval(),
        cut=CutSpec(feature=backbone.feature_size - 1, threshold=CUT_LOGIT),
        notes=notes,
    )


def main() -> None:
    """Train, test, and save."""
    parser = argparse.ArgumentParser(description="Train camera-motion on synthetic video.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    model = train(options.steps, options.seed, options.workers)
    measured = {
        "shown": evaluate(model, 60, options.workers, only_visible=True),
        "all": evaluate(model, 60, options.workers, only_visible=False),
        "shown, without people": evaluate(
            model, 60, options.workers, only_visible=True, people=False
        ),
    }
    print(json.dumps(measured, indent=2))
    notes = {
        "licence": "Apache-2.0",
        "training": "synthetic video drawn by data/camera_motion/shots.py, nothing else",
        "steps": options.steps,
        "seed": options.seed,
        "drawn_test": measured,
    }
    weights = {name: value.contiguous() for name, value in model.backbone.state_dict().items()}
    save_recognizer(as_recognizer(model, notes), options.out, weights)


if __name__ == "__main__":
    main()
