"""Page-locked memory through which frames reach a device while it computes on others."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.records import Images

BUFFERS = 2
"""One is filled while the other is copied."""


@dataclass(slots=True)
class _Buffer:
    memory: Tensor
    """(bytes,) uint8, page-locked."""
    copied: Any = None
    """Event after which the memory may be overwritten; None before the first copy."""


class Staging:
    """
    Sends frames to a device, on a stream of their own.

    Any thread may send; on the CPU, which tests use, nothing is locked and nothing runs beside.

    Args:
        device: where frames go.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self._stream = self._new_stream()
        self._buffers = [_Buffer(self._locked(0)) for _ in range(BUFFERS)]
        self._next = 0
        self._lock = threading.Lock()

    def _new_stream(self) -> Any:
        return torch.cuda.Stream(self._device) if self._cuda else None  # type: ignore[no-untyped-call]

    def _locked(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._cuda)

    def send(self, frames: Images) -> Tensor:
        """
        Copy frames, (T, h, w, 3), to the device.

        The copy has been ordered when this returns; what the device computes next waits for it.
        """
        with self._lock:
            buffer = self._free(frames.nbytes)
            staged = buffer.memory[: frames.nbytes].view(frames.shape)
            np.copyto(staged.numpy(), frames)
            with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
                sent = staged.to(self._device, non_blocking=True, copy=True)
                buffer.copied = self._mark()
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_event(buffer.copied)
            sent.record_stream(torch.cuda.current_stream(self._device))
        return sent

    def _free(self, num_bytes: int) -> _Buffer:
        """Give the buffer that was used longest ago, once it has been copied."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % BUFFERS
        if buffer.copied is not None:
            buffer.copied.synchronize()
        if len(buffer.memory) < num_bytes:
            buffer.memory = self._locked(num_bytes)
        return buffer

    def _mark(self) -> Any:
        if self._stream is None:
            return None
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event
