"""The order of a worker: all prompts in every pass, its own part first, and nothing that depends on the number of workers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.data.prompt_order import PromptOrder

NAMES = st.one_of(st.integers(0, 10**12).map("worker-{}".format), st.sampled_from(["tokyo", "a", "7", "w.3_b"]))
SIZES = st.integers(1, 300)


@given(NAMES, st.one_of(st.none(), SIZES), st.integers(0, 10**9))
def test_positions_and_indices_are_each_others_inverse(name: str, size: int | None, position: int):
    order = PromptOrder(name, size)
    assert order.index(position) >= 0
    assert order.position(order.index(position)) == position


@given(NAMES, SIZES, st.integers(0, 5))
def test_a_worker_asks_every_prompt_once_in_every_pass(name: str, size: int, number: int):
    order = PromptOrder(name, size)
    asked = [order.index(position) for position in range(number * size, (number + 1) * size)]
    assert sorted(asked) == list(range(number * size, (number + 1) * size))


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_equally_fast_workers_ask_every_prompt_once_before_they_ask_one_again(count: int):
    orders = [PromptOrder(f"worker-{number}", 160) for number in range(count)]
    for rounds in (1, 2, 3):
        asked = Counter(order.index(at) % 160 for order in orders for at in range(rounds * 160 // count))
        assert set(asked.values()) == {rounds}
        assert len(asked) == 160


@given(
    st.lists(st.tuples(NAMES, st.integers(0, 400)), min_size=1, max_size=6, unique_by=lambda worker: worker[0]), SIZES
)
def test_no_prompt_is_ahead_of_another_by_more_than_the_number_of_workers(workers: list[tuple[str, int]], size: int):
    """However many workers there are, whenever they come and go: each has made some number of steps in its own order."""
    asked = Counter(dict.fromkeys(range(size), 0))
    for name, steps in workers:
        order = PromptOrder(name, size)
        asked.update(order.index(position) % size for position in range(steps))
    assert max(asked.values()) - min(asked.values()) <= len(workers)


def test_one_worker_begins_with_the_first_prompt():
    for size in (None, 7):
        assert [PromptOrder("worker-0", size).index(position) for position in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "names", [("worker-0", "worker-1", "worker-2"), ("pod-0", "pod-10"), ("alpha", "beta", "worker-0")]
)
def test_workers_ask_different_prompts_of_a_task_without_an_end(names: tuple[str, ...]):
    asked = [PromptOrder(name, None).index(position) for name in names for position in range(1000)]
    assert len(set(asked)) == len(asked)


def test_an_index_of_another_worker_is_refused():
    with pytest.raises(ValueError, match="index = 5: not of this worker, whose indices begin at 4294967296"):
        PromptOrder("worker-1", None).position(5)
