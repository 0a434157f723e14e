"""Host memory into which a checkpoint's tensors are copied: made once and kept, pinned for copies from a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from runtime.errors import LeewayError

_ALIGNED = 64  # bytes


class PinError(LeewayError):
    """CUDA does not pin as much host memory as a rank's part of a checkpoint needs."""


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
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None
        self._memory = torch.empty(0, dtype=torch.uint8)

    @property
    def nbytes(self) -> int:
        """Size of the memory that is kept."""
        return self._memory.nbytes

    def copy(self, tensors: Sequence[Tensor]) -> HostCopy:
        """Copies tensors, from a GPU while it does other work: on a stream of its own, behind what is under way now."""
        copies = self._places(tensors)
        if self._stream is None:
            for copy, tensor in zip(copies, tensors, strict=True):
                copy.copy_(tensor)
            return HostCopy(copies, None)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for copy, tensor in zip(copies, tensors, strict=True):
                copy.copy_(tensor, non_blocking=True)
        return HostCopy(copies, self._stream.record_event())

    def _places(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        ends = list(accumulate(-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors))
        if ends and ends[-1] > self._memory.nbytes:
            self._make(ends[-1])
        memory, starts = self._memory.numpy(), [0, *ends[:-1]]
        # By way of numpy, because a slice of a tensor shares its storage, and torch.save writes all of a storage.
        return [
            torch.from_numpy(memory[start : start + tensor.nbytes]).view(tensor.dtype).view(tensor.shape)
            for start, tensor in zip(starts, tensors, strict=False)
        ]

    def _make(self, size: int) -> None:
        runtime: Any = torch.cuda.cudart() if self._cuda else None
        if runtime and self._memory.nbytes:
            runtime.cudaHostUnregister(self._memory.data_ptr())
        self._memory = torch.empty(size, dtype=torch.uint8)
        # torch's own pinned memory comes in powers of two: up to twice as much.
        if runtime and (status := int(runtime.cudaHostRegister(self._memory.data_ptr(), size, 0))):
            raise PinError(
                f"a checkpoint needs {size / 1e9:.1f} GB of pinned host memory for each rank, and CUDA gives none (error "
                f"{status}): give the learner more memory, or use more data-parallel ranks, which share a checkpoint"
            )
