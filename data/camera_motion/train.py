"""
Train the bundled recognizer `camera-motion` on drawn footage alone.

    python -m data.camera_motion.train

Everything is drawn as it is needed, from one seed; nothing is read. The result is written to
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
BATCHES_A_POOL = 150
"""Batches drawn from one set of scenes before another is drawn."""
OPTIONS = TemporalOptions(cell="gru", layers=1, size=64, pooling="mean")
USES = 3
"""Times that a drawn batch is trained on, each time turned otherwise: drawing takes time."""
APART = 20
"""Drawings between two uses of the same."""
MIRRORED = np.array([0, 2, 1, 3, 4, 5, 6, 8, 7])
"""Labels as seen in a mirror."""
UPSIDE_DOWN = np.array([0, 1, 2, 4, 3, 5, 6, 8, 7])
"""Labels as seen in water."""
BACKWARDS = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7])
"""Labels of a film that runs backwards."""
TEST_SEED = 1_000_000
CUT_LOGIT = -1.5
"""From here on it is a cut: one that is missed spoils a clip, one too many only shortens it."""

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class Drawn(Dataset[Batch]):
    """Batches of drawn sequences: number i is the same whoever draws it."""

    def __init__(
        self,
        seed: int,
        batches: int,
        uses: int = 1,
        *,
        only_shown: bool = False,
        people: bool = True,
    ) -> None:
        self.seed, self.batches, self.uses = seed, batches, uses
        self.only_shown, self.people = only_shown, people
        self._scenes: tuple[int, list[Grey]] = (-1, [])
        self._drawn: dict[int, Batch] = {}

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Batch:
        cv2.setNumThreads(1)
        newest, use = divmod(number, self.uses)
        drawing = max(0, newest - use * APART)
        if drawing not in self._drawn:
            self._drawn[drawing] = self._draw(drawing)
        for old in [d for d in self._drawn if d <= newest - (self.uses - 1) * APART]:
            if old != drawing:
                del self._drawn[old]
        return turned(self._drawn[drawing], np.random.default_rng([self.seed, 2, number]))

    def _draw(self, number: int) -> Batch:
        pool = number // BATCHES_A_POOL
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
                only_shown=self.only_shown,
                people=self.people,
            )
            for _ in range(SEQUENCES)
        ]
        return (
            torch.from_numpy(np.stack([sequence.pictures for sequence in drawn])),
            torch.from_numpy(np.stack([sequence.labels for sequence in drawn])),
            torch.from_numpy(np.stack([sequence.shot for sequence in drawn])),
            torch.from_numpy(np.array([not sequence.dissolve for sequence in drawn])),
        )


def turned(batch: Batch, rng: np.random.Generator) -> Batch:
    """Show a batch in a mirror, upside down, backwards, or not, with the labels it then has."""
    pictures, labels, shots, clear = batch
    for axis, names in ((3, MIRRORED), (2, UPSIDE_DOWN), (1, BACKWARDS)):
        if rng.random() < 0.5:
            continue
        pictures = pictures.flip(axis)
        known = torch.from_numpy(names)[labels.clamp(min=0)]
        labels = torch.where(labels == IGNORED, IGNORED, known)
        if axis == 1:  # the movement to a frame becomes the movement to the one before it
            labels = torch.cat([torch.full_like(labels[:, :1], IGNORED), labels.flip(1)[:, :-1]], 1)
            shots = (shots.amax(1, keepdim=True) - shots).flip(1)
    return pictures, labels, shots, clear


class CameraMotion(nn.Module):
    """The pair network and the temporal model, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = FramePairNetwork()
        self.temporal = TemporalModel(self.backbone.feature_size, len(LABELS), OPTIONS)
        with torch.no_grad():
            self.temporal.inputs.scale[-1] = 0.0  # the logit of a cut says nothing of movement

    def features(self, pictures: Tensor) -> Tensor:
        """Encode (S, T, H, W, 3) uint8 to (S, T, D); the first frame is paired with itself."""
        x = pictures.permute(0, 1, 4, 2, 3).float() / 255
        pairs = torch.cat([torch.cat([x[:, :1], x[:, :-1]], dim=1), x], dim=2)
        pairs = pairs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        encoded: Tensor = self.backbone(pairs)
        return encoded.view(*x.shape[:2], -1)


def rows_of_shots(features: Tensor, labels: Tensor, shots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Make a row of every shot: features (R, T, D), labels (R, T), which frames count (R, T)."""
    rows, truth, masks = [], [], []
    for number in range(int(shots.max()) + 1):
        here = shots == number  # (S, T)
        # the first frame of a shot was paired with another shot, or with itself
        first = here & ~functional.pad(here[:, :-1], (1, 0))
        some = here.sum(1) > 1
        rows.append(features[some])
        truth.append(labels[some])
        masks.append((here & ~first)[some])
    return torch.cat(rows), torch.cat(truth), torch.cat(masks)


def losses(model: CameraMotion, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the losses of frames, clips, and cuts."""
    pictures, labels, shots, clear = batch
    features = model.features(pictures)
    x, truth, mask = rows_of_shots(features, labels, shots)
    logits = model.temporal(x, mask)
    truth = torch.where(mask, truth, IGNORED)
    frame_loss = functional.cross_entropy(
        logits.frames.transpose(1, 2), truth, ignore_index=IGNORED
    )
    clip_truth = _agreed(truth)
    clip_loss = functional.cross_entropy(logits.clips, clip_truth, ignore_index=IGNORED)
    cut = (shots[:, 1:] != shots[:, :-1]).float()
    counts = clear.unsqueeze(1).expand_as(cut)
    cut_loss = functional.binary_cross_entropy_with_logits(features[:, 1:, -1][counts], cut[counts])
    return frame_loss, clip_loss, cut_loss


def _agreed(truth: Tensor) -> Tensor:
    """Give the label that all clear frames of a row share, IGNORED where they differ, (R,)."""
    clear = truth != IGNORED
    high = torch.where(clear, truth, -1).amax(1)
    low = torch.where(clear, truth, len(LABELS)).amin(1)
    return torch.where((high == low) & (clear.sum(1) >= 3), high, IGNORED)


def train(steps: int, seed: int, workers: int) -> CameraMotion:
    """Train on drawn batches; the result is the running average of the weights."""
    torch.manual_seed(seed)
    model = CameraMotion().to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1
    )
    loader = DataLoader(Drawn(seed, steps, USES), batch_size=None, num_workers=workers)
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
        _follow(average, model, min(0.999, (1 + step) / (10 + step)))
        if step % 100 == 0 or step + 1 == steps:
            said = ", ".join(f"{p.item():.3f}" for p in parts)
            print(f"{step:5d}  {said}  {time.monotonic() - begin:6.0f} s", flush=True)
    return average.eval()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.dtype.is_floating_point:
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


@torch.inference_mode()
def evaluate(
    model: CameraMotion, batches: int, workers: int, *, only_shown: bool, people: bool = True
) -> dict[str, float]:
    """
    Measure on drawn footage from another seed: clips, frames, and cuts.

    Args:
        model: what to test.
        batches: how many to draw.
        workers: processes that draw.
        only_shown: ask for no movement that its scene does not show; cuts are not concerned.
        people: let some walk towards each other or apart.
    """
    right = total = frame_right = frame_total = 0
    hits = found = cuts = 0
    model.eval()
    drawn = Drawn(TEST_SEED, batches, only_shown=only_shown, people=people)
    for batch in DataLoader(drawn, batch_size=None, num_workers=workers):
        pictures, labels, shots, clear = batch
        features = model.features(pictures)
        x, truth, mask = rows_of_shots(features, labels, shots)
        logits = model.temporal(x, mask)
        truth = torch.where(mask, truth, IGNORED)
        agreed = _agreed(truth)
        known = agreed != IGNORED
        right += int((logits.clips.argmax(1) == agreed)[known].sum())
        total += int(known.sum())
        frame_right += int((logits.frames.argmax(2) == truth).sum())
        frame_total += int((truth != IGNORED).sum())
        cut = (shots[:, 1:] != shots[:, :-1])[clear]
        said = (features[:, 1:, -1] > CUT_LOGIT)[clear]
        hits, found, cuts = (
            hits + int((cut & said).sum()),
            found + int(said.sum()),
            cuts + int(cut.sum()),
        )
    return {
        "clips": total,
        "clip_accuracy": right / total,
        "frame_accuracy": frame_right / frame_total,
        "cut_precision": hits / max(1, found),
        "cut_recall": hits / max(1, cuts),
        "cut_f1": 2 * hits / max(1, found + cuts),
    }


def as_recognizer(model: CameraMotion, notes: dict[str, object]) -> Recognizer:
    """Make the trained networks a recognizer."""
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
    parser = argparse.ArgumentParser(description="Train camera-motion on drawn footage.")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    model = train(options.steps, options.seed, options.workers)
    measured = {
        "shown": evaluate(model, 60, options.workers, only_shown=True),
        "all": evaluate(model, 60, options.workers, only_shown=False),
        "shown, without people": evaluate(
            model, 60, options.workers, only_shown=True, people=False
        ),
    }
    print(json.dumps(measured, indent=2))
    notes = {
        "licence": "Apache-2.0",
        "training": "footage drawn by data/camera_motion/shots.py, nothing else",
        "steps": options.steps,
        "seed": options.seed,
        "drawn_test": measured,
    }
    weights = {name: value.contiguous() for name, value in model.backbone.state_dict().items()}
    save_recognizer(as_recognizer(model, notes), options.out, weights)


if __name__ == "__main__":
    main()
