"""Copies of a rank's weights in host memory, each used by several at once, in memory that is made once and used again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from learner.megatron.host_buffer import HostBuffer, HostCopy
from learner.megatron.model.correction_bias import published_dtypes


class WeightCopy:
    """One copy, which may still be under way. It has one user at first; the last to release it gives its memory back.

    Made by ``WeightCopies.take``. Its methods may be called by any thread.
    """

    def __init__(self, parameters: Sequence[Parameter], copy: HostCopy, give_back: Callable[[], None]) -> None:
        self._copy = copy
        self._give_back = give_back
        self._of = dict(zip(parameters, copy.tensors, strict=True))
        self._users = 1
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Size of the copy in bytes."""
        return sum(tensor.nbytes for tensor in self._copy.tensors)

    def tensors(self) -> list[Tensor]:
        """Returns the copies in the order of the parameters, once they are complete; a user must not change them."""
        self._copy.wait()
        return self._copy.tensors

    def by_parameter(self) -> dict[Parameter, Tensor]:
        """Returns the copies by their parameters, once they are complete; a user must not change them."""
        self._copy.wait()
        return self._of

    def hold(self) -> WeightCopy:
        """Adds a user, who must release it."""
        with self._lock:
            assert self._users, "this copy's memory has been given back"
            self._users += 1
        return self

    def release(self) -> None:
        """Takes a user away; after the last one the next copy may overwrite the memory."""
        with self._lock:
            self._users -= 1
            left = self._users
        assert left >= 0, "this copy has been released more often than held"
        if not left:
            self._give_back()


class WeightCopies:
    """Makes copies of weights. There is as much memory as copies were in use at the same time, and it is kept.

    Args:
        device: where the weights are.
        dtype: data type of the copies, but of parameters that stay float32; None for each parameter's own.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype
        self._buffers: list[HostBuffer] = []
        self._free: list[HostBuffer] = []  # appended to by any thread
        self._last: HostCopy | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that are kept for copies."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def take(self, parameters: Sequence[Parameter], tensors: Sequence[Tensor]) -> WeightCopy:
        """Copies tensors as they are now; from a GPU while it goes on, up to what must wait for ``protect``.

        Args:
            parameters: parameters of this rank.
            tensors: what is copied of each, of its shape: its value, or an average of it.

        Raises:
            PinError: CUDA pins no more memory.
        """
        if self._free:
            buffer = self._free.pop()
        else:
            buffer = HostBuffer(self._device, "a version")
            self._buffers.append(buffer)
        self._last = buffer.copy(tensors, published_dtypes(parameters, self._dtype))
        return WeightCopy(parameters, self._last, partial(self._free.append, buffer))

    def protect(self) -> None:
        """Lets what this thread puts on the GPU from now on, such as new weights, wait until the old are copied."""
        if self._last is not None:
            self._last.protect()
