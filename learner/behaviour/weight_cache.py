"""The weights of versions in host memory, the least recently used given up first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

LocalWeights = Sequence[Tensor]  # one rank's part of a model, a tensor for each of its parameters, in host memory


class WeightCache:
    """Versions by number, up to a limit in bytes; what is not held is read again.

    Args:
        limit: bytes; a version that is larger than that alone is handed out and not kept.
        read: what to do about a version that is not held.

    Attributes:
        misses: versions read so far.
    """

    def __init__(self, limit: int, read: Callable[[int], LocalWeights]) -> None:
        self._limit = limit
        self._read = read
        self._held: OrderedDict[int, LocalWeights] = OrderedDict()  # least recently used first
        self._bytes = 0
        self.misses = 0

    def __contains__(self, version: int) -> bool:
        return version in self._held

    @property
    def bytes(self) -> int:
        """Held now."""
        return self._bytes

    def put(self, version: int, weights: LocalWeights) -> None:
        """Holds a version, as the one used last; an older one of that number is replaced."""
        self._drop(version)
        size = _size(weights)
        if size > self._limit:
            return
        while self._bytes + size > self._limit:
            self._drop(next(iter(self._held)))
        self._held[version] = weights
        self._bytes += size

    def get(self, version: int) -> LocalWeights:
        """A version's weights; not to be changed. Raises what ``read`` raises."""
        if version in self._held:
            self._held.move_to_end(version)
            return self._held[version]
        self.misses += 1
        weights = self._read(version)
        self.put(version, weights)
        return weights

    def _drop(self, version: int) -> None:
        if version in self._held:
            self._bytes -= _size(self._held.pop(version))


def _size(weights: LocalWeights) -> int:
    return sum(tensor.nbytes for tensor in weights)
