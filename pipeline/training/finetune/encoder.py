"""Encode cached frames of clips with a backbone whose last blocks are trained."""

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
from pipeline.training.finetune.augment import AugmentParams, apply
from pipeline.training.finetune.frame_cache import FrameCache


@dataclass(frozen=True)
class ClipSample:
    """One clip in one step: which frames are used, and how they are augmented."""

    example: Example
    mask: Tensor
    """Frames that are encoded, (L,)."""
    trained: Tensor
    """Those of them through which gradients flow, (L,)."""
    params: AugmentParams | None = None
    """None for no augmentation."""


class ClipEncoder:
    """
    Encodes clips.

    Without gradients no activations are kept, so memory grows with the number of frames through
    which gradients flow, and with the chunk size.

    Args:
        backbone: on the device of the training; batch norms use their stored statistics.
        cache: has the frames.
        training: precision.
        chunk: frames encoded at once.
    """

    def __init__(
        self, backbone: Backbone, cache: FrameCache, training: TrainingOptions, chunk: int
    ) -> None:
        self.cache, self.training, self.chunk = cache, training, chunk
        self.size = backbone.feature_size
        self.module = backbone.module.eval()
        self.device = next(self.module.parameters()).device
        self._mean = torch.tensor(backbone.mean, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(backbone.std, device=self.device).view(1, 3, 1, 1) * 255

    def encode(self, samples: Sequence[ClipSample]) -> Tensor:
        """Encode clips, (N, L, D), padded to the longest; masked frames are 0."""
        return pad_sequence([self._encode(sample) for sample in samples], batch_first=True)

    def _encode(self, sample: ClipSample) -> Tensor:
        x = torch.zeros(len(sample.mask), self.size, device=self.device)  # (L, D)
        parts = ((False, sample.mask & ~sample.trained), (True, sample.trained))
        for with_gradient, mask in parts:
            for frames in _chunks(mask, self.chunk):
                with torch.set_grad_enabled(with_gradient):
                    features = self._features(sample, frames)
                x[frames] = features
        return x

    def _features(self, sample: ClipSample, index: Tensor) -> Tensor:
        """Encode some frames of a clip, (n, D)."""
        example = sample.example
        assert example.sample_index is not None
        cached = self.cache.read(example.video_id, example.sample_index[index.numpy()])
        frames = torch.from_numpy(cached).to(self.device).permute(0, 3, 1, 2).float()
        if sample.params is not None:
            frames = apply(frames, sample.params)
        frames = (frames - self._mean) / self._std  # (n, 3, H, W)
        with autocast(self.training, self.device):
            features: Tensor = self.module(frames.contiguous(memory_format=torch.channels_last))
        return features.float()

    def encode_examples(self, examples: Sequence[Example]) -> list[Example]:
        """Replace the features of examples by those of the current weights, not augmented."""
        return [replace(example, features=self._current(example)) for example in examples]

    def _current(self, example: Example) -> NDArray[np.float32]:
        mask = torch.from_numpy(example.mask)
        features = self._encode(ClipSample(example, mask, torch.zeros_like(mask)))
        values: NDArray[np.float32] = features.cpu().numpy()
        return values


def autocast(training: TrainingOptions, device: torch.device) -> torch.autocast:
    """Make the autocast context of a training; `auto` is bfloat16 on GPUs that support it."""
    precision = training.precision
    if precision == "auto":
        reduced = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if reduced else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _chunks(mask: Tensor, size: int) -> Iterator[Tensor]:
    """Split the indices of the frames in a mask into chunks."""
    index = mask.nonzero()[:, 0]
    yield from torch.split(index, size) if len(index) else ()
