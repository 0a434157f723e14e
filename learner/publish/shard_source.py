"""What the publisher needs of the weights that it publishes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

Shard = Sequence[tuple[str, Tensor]]


class ShardSource(Protocol):
    """One rank's part of the weights after a step, copied out of the way of training."""

    def shard(self) -> Shard:
        """Returns the (Hugging Face name, full tensor) pairs that this rank writes; empty on ranks that write nothing.

        Called once at most, by the publisher's thread, and for the same weights in the same order on every rank, so it may be
        collective. The tensors are in host memory and stay as they are until ``release``.
        """
        ...

    def release(self) -> None:
        """Lets the memory be used again. Called once, by any thread."""
        ...
