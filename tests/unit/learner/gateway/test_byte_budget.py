"""A budget of bytes: what fits passes, fleets take turns, nobody waits for ever, and who is cancelled holds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from hypothesis import given, settings
from hypothesis import strategies as st

from learner.gateway.byte_budget import ByteBudget


class Line:
    """Waiters of a budget, and the order in which they were let through."""

    def __init__(self, total: int, per_fleet: int) -> None:
        self.budget = ByteBudget(total, per_fleet)
        self.passed: list[str] = []

    def ask(self, fleet: str, size: int, name: str = "") -> asyncio.Task[None]:
        async def wait() -> None:
            await self.budget.acquire(fleet, size)
            self.passed.append(name or fleet)

        return asyncio.create_task(wait())

    def held(self) -> dict[str, int]:
        return {fleet: size for fleet, size in self.budget.held.items() if size}


async def settle() -> None:
    """Lets every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def done(*tasks: Awaitable[None]) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*tasks)


async def test_what_fits_passes_at_once_and_what_does_not_waits_for_room():
    line = Line(total=100, per_fleet=60)
    await done(line.ask("a", 40), line.ask("a", 20))
    waiting = line.ask("a", 1)
    await settle()
    assert (waiting.done(), line.held()) == (False, {"a": 60})
    line.budget.release("a", 20)
    await done(waiting)
    assert line.held() == {"a": 41}


async def test_a_fleet_at_its_own_limit_does_not_delay_the_others():
    line = Line(total=100, per_fleet=60)
    await done(line.ask("a", 60))
    line.ask("a", 30)
    await done(line.ask("b", 40))
    assert line.passed == ["a", "b"]


async def test_fleets_take_turns_for_the_total():
    line = Line(total=10, per_fleet=10)
    await done(line.ask("z", 10))
    tasks = [line.ask("a", 10, f"a{number}") for number in range(3)]
    await settle()
    tasks.append(line.ask("b", 10, "b0"))
    await settle()
    for fleet in ("z", "a", "b", "a"):
        line.budget.release(fleet, 10)
        await settle()
    await done(*tasks)
    assert line.passed == ["z", "a0", "b0", "a1", "a2"]


async def test_a_message_above_every_limit_passes_when_nothing_else_is_held_and_is_not_overtaken():
    line = Line(total=100, per_fleet=60)
    await done(line.ask("a", 5_000))
    assert line.held() == {"a": 5_000}
    line.budget.release("a", 5_000)
    await done(line.ask("a", 50))
    large, small = line.ask("b", 5_000, "large"), line.ask("c", 1, "small")
    await settle()
    assert (large.done(), small.done()) == (False, False)
    line.budget.release("a", 50)
    await done(large)
    assert not small.done()
    line.budget.release("b", 5_000)
    await done(small)
    assert line.held() == {"c": 1}


async def test_a_cancelled_waiter_leaves_its_place_to_those_behind_it():
    line = Line(total=100, per_fleet=100)
    await done(line.ask("a", 60))
    large, small = line.ask("b", 90), line.ask("b", 40, "small")
    await settle()
    assert not small.done()
    large.cancel()
    await done(small)
    assert line.held() == {"a": 60, "b": 40}


async def test_a_turn_that_comes_right_after_a_cancellation_goes_to_the_next():
    line = Line(total=100, per_fleet=100)
    await done(line.ask("a", 100))
    cancelled, next_one = line.ask("b", 50), line.ask("b", 100, "next")
    await settle()
    cancelled.cancel()
    line.budget.release("a", 100)  # the cancelled task has not run since
    await done(next_one)
    assert line.held() == {"b": 100}


async def test_a_waiter_cancelled_in_the_moment_of_its_turn_holds_nothing():
    line = Line(total=100, per_fleet=100)
    await done(line.ask("a", 100))
    waiting, next_one = line.ask("b", 50), line.ask("c", 100)
    await settle()
    line.budget.release("a", 100)  # its turn comes here, and the task has not run since
    waiting.cancel()
    await done(next_one)
    assert (waiting.cancelled(), line.held()) == (True, {"c": 100})


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.booleans()), max_size=40),
    st.integers(1, 40),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_any_order_ends_with_all_served_and_within_the_budget(
    asked: list[tuple[str, int, bool]], total: int, per_fleet: int
):
    async def run() -> None:
        line = Line(total, per_fleet)
        tasks = [(fleet, size, line.ask(fleet, size)) for fleet, size, _ in asked]
        await settle()
        for (_, _, cancel), (_, _, task) in zip(asked, tasks, strict=True):
            if cancel:
                task.cancel()
        await settle()
        left = [one for one in tasks if not one[2].cancelled()]
        while left:
            served = [one for one in left if one[2].done()]
            assert served  # otherwise all wait, and nobody will ever release
            held = line.held()
            sizes = [size for _, size, _ in served if size]
            assert sum(held.values()) == sum(sizes)
            assert sum(sizes) <= total or len(sizes) == 1
            for fleet in held:
                own = [size for name, size, _ in served if name == fleet and size]
                assert sum(own) <= per_fleet or len(own) == 1
            fleet, size, _ = served[0]
            line.budget.release(fleet, size)
            left.remove(served[0])
            await settle()
        assert line.held() == {}

    asyncio.run(run())
