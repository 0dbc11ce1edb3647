"""Encode the kept pictures of clips with a backbone whose last blocks learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipeline.encode.backbone import Backbone
from pipeline.temporal.batching import Example
from pipeline.temporal.options import TrainingOptions
from pipeline.training.finetune.augment import View, show
from pipeline.training.finetune.frame_cache import PictureCache


@dataclass(frozen=True)
class Look:
    """One clip as it is looked at in one step."""

    example: Example
    mask: Tensor
    """Which frames count, (L,); no other is encoded."""
    learned: Tensor
    """Through which of them gradients flow, (L,)."""
    view: View | None = None
    """None shows the pictures as they are kept."""


class ClipEncoder:
    """
    Encodes clips.

    Frozen blocks keep nothing of a frame once it is encoded, as no gradient flows there; so memory
    grows with the frames that are learned from, and with the chunk.

    Args:
        backbone: is moved to the device; norms keep their statistics.
        cache: where the pictures are.
        training: device and precision.
        chunk: frames that are encoded at once.
    """

    def __init__(
        self, backbone: Backbone, cache: PictureCache, training: TrainingOptions, chunk: int
    ) -> None:
        self.cache, self.training, self.chunk = cache, training, chunk
        self.size = backbone.feature_size
        self.module = backbone.module.eval()
        self.device = next(self.module.parameters()).device
        self._mean = torch.tensor(backbone.mean, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(backbone.std, device=self.device).view(1, 3, 1, 1) * 255

    def encode(self, looks: Sequence[Look]) -> Tensor:
        """Encode clips, (N, L, D), padded to the longest; 0 where a frame does not count."""
        return pad_sequence([self._encode(look) for look in looks], batch_first=True)

    def _encode(self, look: Look) -> Tensor:
        x = torch.zeros(len(look.mask), self.size, device=self.device)  # (L, D)
        for learns, part in ((False, look.mask & ~look.learned), (True, look.learned)):
            for frames in _chunks(part, self.chunk):
                with torch.set_grad_enabled(learns):
                    features = self._features(look, frames)
                x[frames] = features
        return x

    def _features(self, look: Look, frames: Tensor) -> Tensor:
        """Encode some frames of a clip, (n, D)."""
        assert look.example.sample_index is not None
        kept = self.cache.read(look.example.video_id, look.example.sample_index[frames.numpy()])
        pictures = torch.from_numpy(kept).to(self.device).permute(0, 3, 1, 2).float()
        if look.view is not None:
            pictures = show(pictures, look.view)
        pictures = (pictures - self._mean) / self._std  # (n, 3, H, W)
        with autocast(self.training, self.device):
            features: Tensor = self.module(pictures.contiguous(memory_format=torch.channels_last))
        return features.float()

    def encoded(self, examples: Sequence[Example]) -> list[Example]:
        """Give clips with the features that their pictures, as they are, have by now."""
        return [replace(example, features=self._plain(example)) for example in examples]

    def _plain(self, example: Example) -> NDArray[np.float32]:
        mask = torch.from_numpy(example.mask)
        features = self._encode(Look(example, mask, torch.zeros_like(mask)))
        values: NDArray[np.float32] = features.cpu().numpy()
        return values


def autocast(training: TrainingOptions, device: torch.device) -> torch.autocast:
    """Encode in the block in the precision of training: where a GPU computes bfloat16, in that."""
    precision = training.precision
    if precision == "auto":
        reduced = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if reduced else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _chunks(mask: Tensor, size: int) -> Iterator[Tensor]:
    """Give the numbers of frames that are meant, so many at a time."""
    numbers = mask.nonzero()[:, 0]
    yield from torch.split(numbers, size) if len(numbers) else ()
