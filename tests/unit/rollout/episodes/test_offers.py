"""Episodes that are offered to agents elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from rollout.episodes.offers import EpisodeOffer, EpisodeOffers
from rollout.tasks import Prompt


def offer(world, name: str) -> EpisodeOffer:
    return EpisodeOffer(world("chatml").book.open(), Prompt(name, "text"))


async def place(offers: EpisodeOffers, *made: EpisodeOffer) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(offers.place(one)) for one in made]
    await asyncio.sleep(0)
    return tasks


async def test_offers_are_taken_in_the_order_in_which_they_came(world):
    offers, first, second = EpisodeOffers(), offer(world, "a"), offer(world, "b")
    placed = await place(offers, first, second)
    assert len(offers) == 2
    assert await offers.take(60) is first
    await placed[0]
    assert not placed[1].done()
    assert await offers.take(60) is second
    await placed[1]
    assert len(offers) == 0


async def test_an_agent_waits_for_an_offer_and_no_longer_than_it_says(world):
    offers, made = EpisodeOffers(), offer(world, "a")
    assert await offers.take(0) is None
    assert await offers.take(0.01) is None
    waiting = [asyncio.create_task(offers.take(60)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # an agent that hangs up takes nothing
    (placed,) = await place(offers, made)
    assert await waiting[1] is made
    await placed
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]


async def test_many_agents_share_the_offers(world):
    offers, made = EpisodeOffers(), [offer(world, str(index)) for index in range(5)]
    waiting = [asyncio.create_task(offers.take(60)) for _ in range(5)]
    placed = await place(offers, *made)
    taken = await asyncio.gather(*waiting)
    assert sorted(one.prompt.prompt_id for one in taken if one) == ["0", "1", "2", "3", "4"]
    await asyncio.gather(*placed)


async def test_a_withdrawn_offer_is_gone_at_once(world):
    offers, first, second = EpisodeOffers(), offer(world, "a"), offer(world, "b")
    withdrawn, placed = await place(offers, first, second)
    withdrawn.cancel()  # its task has not run since
    assert len(offers) == 1
    assert await offers.take(60) is second
    await placed
    with pytest.raises(asyncio.CancelledError):
        await withdrawn
    assert await offers.take(0) is None
