"""Slots of responses: new ones begin only while there is room, of a task or of any of several."""

from __future__ import annotations

import asyncio

import pytest

from rollout.generation.response_slots import ResponseSlots, any_free


async def test_more_responses_begin_only_while_there_is_room():
    slots = ResponseSlots(lambda: 8)
    assert await slots.free() == 8
    slots.begin(8)
    waiting = asyncio.create_task(slots.free())
    await asyncio.sleep(0)
    assert not waiting.done()
    slots.end(3)
    assert await waiting == 3


@pytest.mark.parametrize(("first", "second", "most"), [(8, 3, 8), (0, 3, 3), (2, 0, 2)])
async def test_any_of_several_slots_may_have_room(first: int, second: int, most: int):
    full, empty = ResponseSlots(lambda: first), ResponseSlots(lambda: second)
    assert await asyncio.wait_for(any_free([full, empty, full]), 60) == most


async def test_without_room_anywhere_it_waits_until_a_response_ends():
    slots = [ResponseSlots(lambda: 2), ResponseSlots(lambda: 1)]
    slots[0].begin(2)
    slots[1].begin(1)
    waiting = asyncio.create_task(any_free(slots))
    await asyncio.sleep(0)
    assert not waiting.done()
    slots[1].end()
    assert await asyncio.wait_for(waiting, 60) == 1
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1  # nobody goes on waiting for the others
