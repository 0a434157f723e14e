"""The cache of weights: what is cached, what is evicted first, what is read again."""

import pytest
import torch

from learner.behaviour.weight_cache import LocalWeights, ReadWeights, WeightCache


def weights(value: float, elements: int = 10) -> list[torch.Tensor]:
    """Weights of four bytes an element, in two tensors."""
    return [torch.full((elements - 4,), float(value)), torch.full((4,), float(value))]


class Disk:
    def __init__(self, elements: int = 10) -> None:
        self.asked: list[int] = []
        self.elements = elements

    def read(self, version: int) -> LocalWeights:
        self.asked.append(version)
        return weights(version, self.elements)


def test_the_least_recently_used_goes_first_and_comes_back_from_disk():
    disk = Disk()
    cache = WeightCache(80, disk.read)  # two versions of 40 bytes
    cache.put(0, ReadWeights(weights(0)))
    cache.put(1, ReadWeights(weights(1)))
    assert cache.get(0)[0][0] == 0
    cache.put(2, ReadWeights(weights(2)))  # 1 is the one not used for longest
    assert (0 in cache, 1 in cache, 2 in cache) == (True, False, True)
    assert cache.bytes == 80
    assert disk.asked == []
    assert cache.get(1)[1].tolist() == [1.0] * 4
    assert (disk.asked, cache.misses) == ([1], 1)
    assert 0 not in cache  # 2 was put after 0 was used
    assert cache.bytes == 80


def test_a_version_put_again_counts_once():
    cache = WeightCache(80, Disk().read)
    cache.put(3, ReadWeights(weights(0)))
    cache.put(3, ReadWeights(weights(1)))
    assert cache.bytes == 40
    assert cache.get(3)[0][0] == 1.0


@pytest.mark.parametrize("limit", [0, 39])
def test_what_does_not_fit_is_handed_out_and_not_kept(limit: int):
    disk = Disk()
    cache = WeightCache(limit, disk.read)
    cache.put(7, ReadWeights(weights(7)))
    assert cache.bytes == 0
    assert cache.get(7)[0][0] == 7.0
    assert cache.get(7)[0][0] == 7.0
    assert disk.asked == [7, 7]


def test_several_small_ones_make_room_for_a_large_one():
    cache = WeightCache(100, Disk(elements=25).read)
    cache.put(0, ReadWeights(weights(0)))
    cache.put(1, ReadWeights(weights(1)))
    cache.get(2)
    assert (0 in cache, 1 in cache, 2 in cache) == (False, False, True)


def test_a_failure_to_read_leaves_the_cache_as_it_was():
    def fail(version: int) -> LocalWeights:
        raise OSError("gone")

    cache = WeightCache(80, fail)
    cache.put(0, ReadWeights(weights(0)))
    with pytest.raises(OSError, match="gone"):
        cache.get(1)
    assert 0 in cache
    assert cache.bytes == 40


class Shared(ReadWeights):
    """Weights that say how often they were released."""

    released = 0

    def release(self) -> None:
        self.released += 1


def test_what_is_shared_is_released_once_when_it_leaves_the_cache():
    cache = WeightCache(80, Disk().read)
    shared = [Shared(weights(number)) for number in range(4)]
    cache.put(0, shared[0])
    cache.put(1, shared[1])
    cache.put(1, shared[2])  # under the number of one that was never published
    assert [one.released for one in shared] == [0, 1, 0, 0]
    cache.put(2, shared[3])
    assert [one.released for one in shared] == [1, 1, 0, 0]
    assert cache.get(2)[0] is shared[3].tensors()[0]


def test_what_is_shared_and_does_not_fit_is_released_at_once():
    cache, shared = WeightCache(39, Disk().read), Shared(weights(0))
    cache.put(0, shared)
    assert shared.released == 1
