"""A cache of versions' weights in host memory, which evicts the least recently used version first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

LocalWeights = Sequence[Tensor]  # one rank's shard of a model, a tensor for each of its parameters, in host memory


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
        self._cached: OrderedDict[int, LocalWeights] = OrderedDict()  # least recently used first
        self._bytes = 0
        self.misses = 0

    def __contains__(self, version: int) -> bool:
        return version in self._cached

    @property
    def bytes(self) -> int:
        """Bytes currently cached."""
        return self._bytes

    def put(self, version: int, weights: LocalWeights) -> None:
        """Caches a version as the most recently used one, replacing weights cached under that number."""
        self._evict(version)
        size = _size(weights)
        if size > self._limit:
            return
        while self._bytes + size > self._limit:
            self._evict(next(iter(self._cached)))
        self._cached[version] = weights
        self._bytes += size

    def get(self, version: int) -> LocalWeights:
        """Returns a version's weights, which must not be changed. Raises what ``read`` raises."""
        if version in self._cached:
            self._cached.move_to_end(version)
            return self._cached[version]
        self.misses += 1
        weights = self._read(version)
        self.put(version, weights)
        return weights

    def _evict(self, version: int) -> None:
        if version in self._cached:
            self._bytes -= _size(self._cached.pop(version))


def _size(weights: LocalWeights) -> int:
    return sum(tensor.nbytes for tensor in weights)
