"""Tests of quotas on a real Redis: the token buckets under the test's clock, and gateways that share them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.queue import EmbeddedRedis, GatewayQueue, imbalances
from learner.queue.scripts import script
from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from tests.service.fleet import TOKENS, GatewayProcess, valid_group

# The script itself, except that its last two arguments are the time.
TIMED = script("permit").text.replace("redis.call('TIME')", "{table.remove(ARGV), table.remove(ARGV)}")

Asked = tuple[int, list[int]]  # microseconds since the last time, sizes of the groups asked for
ASKED = st.lists(st.tuples(st.integers(-2_000_000, 3_000_000), st.lists(st.integers(0, 500), max_size=8)), max_size=40)


@pytest.fixture(scope="module")
def bucket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    server = EmbeddedRedis.start(tmp_path_factory.mktemp("bucket"), aof="everysec")
    with redis.Redis.from_url(server.url) as client:
        yield client
    server.stop()


def ask(client: redis.Redis, now_us: int, groups_per_s: float, bytes_per_s: float, sizes: list[int]) -> list[int]:
    """Returns [number of groups that pass, ms until the next one could]."""
    clock = [now_us % 1_000_000, now_us // 1_000_000]
    return client.eval(TIMED, 1, "bucket", groups_per_s, bytes_per_s, *sizes, *clock)  # pyright: ignore


@settings(max_examples=60, deadline=None)
@given(ASKED, st.floats(0.2, 50), st.floats(10, 2000))
def test_no_window_sees_more_than_rate_and_bucket(
    bucket_server: redis.Redis, asked: list[Asked], groups_per_s: float, bytes_per_s: float
):
    bucket_server.delete("bucket")
    now = passed_time = 1_000_000_000_000
    passed: list[tuple[int, int]] = []  # (time by a clock that only goes forward, size)
    for step, sizes in asked:
        now += step
        passed_time += max(0, step)
        count, wait_ms = ask(bucket_server, now, groups_per_s, bytes_per_s, sizes)
        assert 0 <= count <= len(sizes)
        assert (wait_ms > 0) == (count < len(sizes))
        passed += [(passed_time, size) for size in sizes[:count]]
    for first, (start, _) in enumerate(passed):
        groups = size = 0
        for at, one in passed[first:]:
            groups, size = groups + 1, size + one
            elapsed = (at - start) / 1e6
            assert groups <= groups_per_s * elapsed + max(1.0, groups_per_s) + 1e-6
            assert size <= bytes_per_s * elapsed + max(bytes_per_s, 500) + 1e-6


@settings(max_examples=40, deadline=None)
@given(st.floats(0.2, 50), st.floats(10, 2000), st.integers(0, 5000))
def test_a_group_passes_once_its_wait_is_over_however_large(
    bucket_server: redis.Redis, groups_per_s: float, bytes_per_s: float, size: int
):
    bucket_server.delete("bucket")
    now = 1_000_000_000_000
    for _ in range(5):
        count, wait_ms = ask(bucket_server, now, groups_per_s, bytes_per_s, [size] * 200)
        if count == 200:
            break
        assert ask(bucket_server, now, groups_per_s, bytes_per_s, [size])[0] == 0
        now += (wait_ms + 1) * 1000
        assert ask(bucket_server, now, groups_per_s, bytes_per_s, [size])[0] == 1


def test_a_limit_that_comes_later_owes_nothing(bucket_server: redis.Redis):
    bucket_server.delete("bucket")
    now = 1_000_000_000_000
    assert ask(bucket_server, now, 5, 0, [10_000] * 5) == [5, 0]
    assert ask(bucket_server, now + 2_000_000, 5, 1000, [10]) == [1, 0]


@pytest.mark.parametrize(
    ("groups_per_s", "bytes_per_s", "sizes"),
    # What the first group takes comes back in 1000 s at the earliest.
    [(0.001, None, [1, 1]), (None, 1000.0, [10**9, 1])],
    ids=["groups", "bytes"],
)
async def test_the_rate_holds_over_all_gateways_together(
    gateway_queue: GatewayQueue, config, groups_per_s: float | None, bytes_per_s: float | None, sizes: list[int]
):
    other = GatewayQueue(config, quarantine_groups=0)
    permits = [
        await queue.rates.permit("alpha", groups_per_s, bytes_per_s, sizes)
        for queue in (gateway_queue, other, gateway_queue, other)
    ]
    await other.close()
    assert [permit.groups for permit in permits] == [1, 0, 0, 0]
    assert min(permit.wait_s for permit in permits) > 300


async def test_a_flood_gets_turns_and_the_others_their_acks(start_gateway, tmp_path: Path, redis_server: EmbeddedRedis):
    # One group at once; the next in 1000 s, when this test has long been over.
    quotas: dict[str, Any] = {"admission": {"quotas": {"alpha": {"groups_per_s": 0.001}}}}
    gateways = [await start_gateway(**quotas), GatewayProcess(tmp_path / "second", redis_server.url, **quotas)]
    await gateways[1].ready()
    try:
        async with gateways[0].connect() as one, gateways[1].connect() as two:
            async with gateways[0].connect(TOKENS["beta"]) as beta:
                flood = [asyncio.create_task(f.submit([valid_group() for _ in range(100)])) for f in (one, two)]
                assert set(await beta.outcomes([valid_group() for _ in range(20)])) == {"ACCEPTED"}
                acks = [ack for task in flood for ack in await task]
            refused = [ack for ack in acks if ack.outcome == pb.OUTCOME_RETRY]
            assert len(refused) == 199
            assert [ack.outcome for ack in acks if ack not in refused] == [pb.OUTCOME_ACCEPTED]
            assert {ack.reason for ack in refused} == {"quota_rate"}
            assert {ack.retry_after_ms for ack in refused} == {30_000}  # as far as a gateway looks ahead
            ledger = await one.ledger()
            assert imbalances(ledger) == []
            assert (ledger.accepted, ledger.retried) == (1, 199)
    finally:
        gateways[1].child.kill()


async def test_the_client_obeys_turns_until_all_are_in(start_gateway):
    gateway = await start_gateway(admission={"quota": {"groups_per_s": 40}})
    async with SubmitClient(gateway.address, TOKENS["alpha"]) as client:
        acks = await asyncio.wait_for(asyncio.gather(*(client.submit(valid_group()) for _ in range(80))), 120)
        assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
        ledger = await client.get_ledger()
        assert imbalances(ledger) == []
        # Turns are kept mostly: polling would ask many times for each of the 40 that wait.
        assert ledger.retried < 4 * 40


async def test_the_backlogs_bytes_are_capped_by_fleet(start_gateway):
    size = len(valid_group(length=200).SerializeToString())
    gateway = await start_gateway(admission={"quotas": {"alpha": {"max_queued_bytes": 2 * size + size // 2}}})
    async with gateway.connect() as alpha, gateway.connect(TOKENS["beta"]) as beta:
        # A remembered id counts too, and is small beside such a group: after three the limit is passed.
        assert await alpha.outcomes([valid_group(length=200) for _ in range(5)]) == ["ACCEPTED"] * 3 + ["RETRY"] * 2
        (ack,) = await alpha.submit([valid_group(length=200)])
        assert (ack.reason, ack.retry_after_ms) == ("quota_backlog", 2000)
        assert await beta.outcomes([valid_group() for _ in range(5)]) == ["ACCEPTED"] * 5
        assert imbalances(await alpha.ledger()) == []
