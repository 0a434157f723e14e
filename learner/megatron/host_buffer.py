"""Host memory into which tensors are copied: made once and kept, pinned for copies from a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.errors import LeewayError

_ALIGNED = 64  # bytes


class PinError(LeewayError):
    """CUDA does not pin as much host memory as a rank's part of a checkpoint or of a version needs."""


@dataclass(frozen=True)
class HostCopy:
    """Copies of tensors in host memory, which may still be under way.

    Attributes:
        tensors: the copies, valid after ``wait``; each has a storage of its own, as torch.save wants it.
        done: a CUDA event behind the copies; None if they were made at once.
    """

    tensors: list[Tensor]
    done: Any

    def wait(self) -> None:
        """Blocks this thread until the copies are complete."""
        if self.done is not None:
            self.done.synchronize()

    def protect(self) -> None:
        """Lets what this thread puts on the GPU from now on, such as new weights, wait until the old are copied."""
        if self.done is not None:
            torch.cuda.current_stream().wait_event(self.done)


class HostBuffer:
    """Memory for one copy of a set of tensors; the next copy overwrites it.

    Fresh memory costs more than a copy: the system clears it page by page, and CUDA copies into memory that is not pinned by
    way of a small buffer, while the caller waits.

    Args:
        device: where the tensors are.
        content: what is copied, for an error message, such as "a checkpoint".
    """

    def __init__(self, device: torch.device, content: str) -> None:
        self._content = content
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._memory = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Size of the memory that is kept."""
        return self._memory.nbytes

    def copy(self, tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype] | None = None) -> HostCopy:
        """Copies tensors, from a GPU while it does other work: on a stream of its own, behind what is under way now.

        Args:
            tensors: what to copy, all from the device of this buffer.
            dtypes: data type of each copy, a GPU's rounded there; None for each tensor's own.

        Raises:
            PinError: CUDA pins no memory of this size.
        """
        copies = self._places(tensors, [tensor.dtype for tensor in tensors] if dtypes is None else dtypes)
        if self._stream is None:
            for copy, tensor in zip(copies, tensors, strict=True):
                copy.copy_(tensor)
            return HostCopy(copies, None)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for copy, tensor in zip(copies, tensors, strict=True):
                copy.copy_(tensor, non_blocking=True)
                if tensor.is_cuda:  # its memory may be given to others before the copy is made
                    tensor.record_stream(self._stream)
        return HostCopy(copies, self._stream.record_event())

    def _places(self, tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
        sizes = [tensor.numel() * own.itemsize for tensor, own in zip(tensors, dtypes, strict=True)]
        ends = list(accumulate(-(-size // _ALIGNED) * _ALIGNED for size in sizes))
        if ends and ends[-1] > self._memory.nbytes:
            self._make(ends[-1])
        memory, starts = self._memory, [0, *ends[:-1]]
        # By way of numpy, because a slice of a tensor shares its storage, and torch.save writes all of a storage.
        return [
            torch.from_numpy(memory[start : start + size]).view(own).view(tensor.shape)
            for start, size, own, tensor in zip(starts, sizes, dtypes, tensors, strict=False)
        ]

    def _make(self, size: int) -> None:
        runtime: Any = torch.cuda.cudart() if self._cuda else None
        self._memory = np.empty(0, np.uint8)  # the old memory goes first, unless copies still use it
        whole = np.empty(size + _ALIGNED, np.uint8)
        # torch's own pinned memory comes in powers of two: up to twice as much.
        if runtime and (status := int(runtime.cudaHostRegister(whole.ctypes.data, whole.nbytes, 0))):
            raise PinError(
                f"{self._content} needs {size / 1e9:.1f} GB of pinned host memory for each rank, and CUDA gives none "
                f"(error {status}): give the learner more memory, or use more ranks, which share it"
            )
        if runtime:
            # It is unpinned when the last copy in it is gone: CUDA refuses to pin an address twice, and the system hands out
            # the same ones again.
            weakref.finalize(whole, runtime.cudaHostUnregister, whole.ctypes.data).atexit = False
        start = -whole.ctypes.data % _ALIGNED
        self._memory = whole[start : start + size]
