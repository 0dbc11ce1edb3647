"""The memory of an accelerator: how it is told that there is too little, and how some is freed."""

from __future__ import annotations

import torch

SIGNS = (
    "out of memory",
    "ALLOC_FAILED",  # cuBLAS, where its workspace does not fit
    "ALLOCATION_FAILED",  # cuDNN
    "unable to find an engine to execute this computation",  # cuDNN, where no workspace fits
    "Unable to find a valid cuDNN algorithm",  # the same, in its older interface
)
"""What libraries say of a device that has none left, in errors that are not torch's own."""


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error says that a device has too little memory for what was asked of it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def free_memory() -> None:
    """
    Give memory that nothing uses back to the device, once what was ordered is done.

    Not while an error is handled that came from a computation: it holds what was computed so far.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
