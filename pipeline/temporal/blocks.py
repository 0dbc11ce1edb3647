"""
Blocks of frames: with a stride s, the mean of s frames is one step of a temporal model.

Block 0 is frame 0, block k the frames (k - 1) s + 1 to k s. A model that looks back only can tell
the labels of frame k s from block k, and gives them to the s - 1 frames after it too; a model that
looks ahead gives each frame the labels of its own block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Blocks(NamedTuple):
    """Blocks of the frames of a chunk of N sequences."""

    steps: Tensor
    """Means of the blocks, (N, B, P)."""
    lengths: Tensor
    """Number of valid blocks of each sequence, (N,)."""
    frames: Tensor
    """Block that each frame has its labels from, (N, L); -1 is the last one of the chunk before."""
    open: Tensor
    """Sums of the frames after the last complete block, (N, P)."""


def make_blocks(
    x: Tensor, lengths: Tensor, steps: Tensor, open_block: Tensor, *, stride: int, looks_ahead: bool
) -> Blocks:
    """
    Average blocks of frames.

    Args:
        x: (N, L, P).
        lengths: number of valid frames, which come first, (N,).
        steps: number of frames before this chunk, (N,).
        open_block: sums of the frames after the last complete block before, (N, P).
        stride: frames a block.
        looks_ahead: the chunk is the whole sequence: its last block may be incomplete, and every
            frame has its labels from its own block.
    """
    n, length, size = x.shape
    times = steps.unsqueeze(1) + torch.arange(length, device=x.device)  # (N, L)
    before = _blocks_until(steps, stride)  # complete blocks, (N,)
    number = (times + stride - 1) // stride - before.unsqueeze(1)
    valid = torch.arange(length, device=x.device) < lengths.unsqueeze(1)
    total = int(number.max()) + 1 if length else 0
    sums = x.new_zeros(n, total + 1, size)
    sums[:, 0] = open_block
    sums.scatter_add_(1, number.unsqueeze(2).expand_as(x), x * valid.unsqueeze(2))
    complete = _blocks_until(steps + lengths, stride) - before
    counts = torch.full((n, total + 1), stride, device=x.device)
    counts[:, 0] = torch.where(before == 0, 1, stride)
    frames = times // stride - before.unsqueeze(1)
    if looks_ahead:
        ones = valid.long()
        counts = torch.zeros_like(counts).scatter_add_(1, number, ones).clamp(min=1)
        frames = number
        complete = torch.where(lengths > 0, (lengths + stride - 2) // stride + 1, 0)
    index = complete.view(-1, 1, 1).clamp(max=total).expand(-1, 1, size)
    means = sums[:, : int(complete.max())] / counts[:, : int(complete.max()), None]
    return Blocks(means, complete, frames, sums.gather(1, index).squeeze(1))


def _blocks_until(steps: Tensor, stride: int) -> Tensor:
    """Count the complete blocks of the first `steps` frames, (N,)."""
    return (steps + stride - 1) // stride


def repeat_for_frames(logits: Tensor, held: Tensor, frames: Tensor) -> Tensor:
    """
    Give each frame the logits of its block.

    Args:
        logits: of the blocks, (N, B, K).
        held: of the last block of the chunk before, (N, K).
        frames: block of each frame, (N, L); -1 is the one before.
    """
    joined = torch.cat([held.unsqueeze(1), logits], dim=1)
    index = (frames + 1).clamp(max=joined.shape[1] - 1)
    return joined.gather(1, index.unsqueeze(2).expand(-1, -1, joined.shape[2]))
