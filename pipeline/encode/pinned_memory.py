"""Page-locked (pinned) memory, to copy frames to a GPU while it computes."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.records import Images

NUM_BUFFERS = 2
"""One is filled while the other is copied."""


@dataclass(slots=True)
class _Buffer:
    memory: Tensor
    """(bytes,) uint8, page-locked."""
    copied: Any = None
    """CUDA event after which the memory may be overwritten; None before the first copy."""


class PinnedBuffers:
    """
    Copy frames to a device through pinned buffers, on a CUDA stream of their own.

    Any thread may use it. With the CPU as device, for tests, memory is not pinned and copies are
    synchronous.

    Args:
        device: device to copy to.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self._stream = self._new_stream()
        self._buffers = [_Buffer(self._allocate(0)) for _ in range(NUM_BUFFERS)]
        self._next = 0
        self._lock = threading.Lock()

    def _new_stream(self) -> Any:
        return torch.cuda.Stream(self._device) if self._cuda else None  # type: ignore[no-untyped-call]

    def _allocate(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._cuda)

    def copy_to_device(self, frames: Images) -> Tensor:
        """
        Copy frames, (T, h, w, 3), to the device.

        The copy is asynchronous: the current stream of the device waits for it.
        """
        with self._lock:
            buffer = self._next_buffer(frames.nbytes)
            pinned = buffer.memory[: frames.nbytes].view(frames.shape)
            np.copyto(pinned.numpy(), frames)
            with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
                copy = pinned.to(self._device, non_blocking=True, copy=True)
                buffer.copied = self._record_event()
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_event(buffer.copied)
            copy.record_stream(torch.cuda.current_stream(self._device))
        return copy

    def _next_buffer(self, num_bytes: int) -> _Buffer:
        """Return the least recently used buffer, after its copy has ended."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % NUM_BUFFERS
        if buffer.copied is not None:
            buffer.copied.synchronize()
        if len(buffer.memory) < num_bytes:
            buffer.memory = self._allocate(num_bytes)
        return buffer

    def _record_event(self) -> Any:
        if self._stream is None:
            return None
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event
