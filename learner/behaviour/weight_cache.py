"""A cache of versions' weights in host memory, which evicts the least recently used version first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

LocalWeights = Sequence[Tensor]  # one rank's shard of a model, a tensor for each of its parameters, in host memory


class HeldWeights(Protocol):
    """A version's weights that the cache shares with others, such as the publisher; it is one of their users."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        ...

    def tensors(self) -> LocalWeights:
        """Returns the weights, when they are complete."""
        ...

    def release(self) -> None:
        """Says that the cache does not use them any more."""
        ...


class ReadWeights:
    """Weights that nobody else uses, such as those that were read from disk."""

    def __init__(self, weights: LocalWeights) -> None:
        self._weights = weights

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(tensor.nbytes for tensor in self._weights)

    def tensors(self) -> LocalWeights:
        """Returns the weights."""
        return self._weights

    def release(self) -> None:
        """Does nothing: their memory goes with them."""


class WeightCache:
    """Weights of versions by number, up to a limit in bytes; a version that is not cached is read.

    Args:
        limit: most bytes cached; a version that is larger than that alone is returned and not cached.
        read: reads a version that is not cached.

    Attributes:
        misses: number of versions read so far.
    """

    def __init__(self, limit: int, read: Callable[[int], LocalWeights]) -> None:
        self._limit = limit
        self._read = read
        self._cached: OrderedDict[int, HeldWeights] = OrderedDict()  # least recently used first
        self._bytes = 0
        self.misses = 0

    def __contains__(self, version: int) -> bool:
        return version in self._cached

    @property
    def bytes(self) -> int:
        """Bytes currently cached."""
        return self._bytes

    def put(self, version: int, weights: HeldWeights) -> None:
        """Caches a version as the most recently used one, replacing weights cached under that number.

        It releases the weights when they are evicted, or at once if they are too large to be cached.
        """
        self._evict(version)
        if weights.nbytes > self._limit:
            weights.release()
            return
        while self._bytes + weights.nbytes > self._limit:
            self._evict(next(iter(self._cached)))
        self._cached[version] = weights
        self._bytes += weights.nbytes

    def get(self, version: int) -> LocalWeights:
        """Returns a version's weights, which must not be changed. Raises what ``read`` raises."""
        if version in self._cached:
            self._cached.move_to_end(version)
            return self._cached[version].tensors()
        self.misses += 1
        weights = self._read(version)
        self.put(version, ReadWeights(weights))
        return weights

    def _evict(self, version: int) -> None:
        if version in self._cached:
            weights = self._cached.pop(version)
            self._bytes -= weights.nbytes
            weights.release()
