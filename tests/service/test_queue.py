"""Tests of appending, taking, committing and expiring on real servers: the bundled one and, if there is one, the system's."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from learner.config import QueueConfig
from learner.queue import (
    Appended,
    FencedError,
    GatewayQueue,
    LearnerQueue,
    QueueError,
    UnknownVersionError,
    imbalances,
    read_ledgers,
)
from learner.queue.keys import Keys
from learner.queue.scripts import script
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, valid_group
from tests.service.queueing import append, begun, client, feed, ids, lease, ledger, wish

Open = Callable[[], LearnerQueue]
ACCEPTED, DUPLICATE = Appended.ACCEPTED, Appended.DUPLICATE


async def test_a_group_from_append_to_commit(config, gateway_queue, open_learner):
    learner = begun(open_learner)
    groups = [valid_group() for _ in range(5)]
    assert await feed(gateway_queue, groups) == [ACCEPTED] * 5
    assert (ledger(config).queued, ledger(config).in_flight, learner.waiting()) == (5, 0, 5)
    taken = learner.take(3, step=0, expire_after=2)
    assert [one.group for one in taken] == groups[:3]  # FIFO, content intact
    assert (ledger(config).queued, ledger(config).in_flight, learner.waiting()) == (2, 3, 2)
    assert learner.commit(1, [one.ref for one in taken]) == 3
    assert (ledger(config).trained, ledger(config).in_flight) == (3, 0)
    assert ids(learner.take(9, 1, 2)) == [group.group_id for group in groups[3:]]
    assert learner.take(9, 1, 2) == []


async def test_append_and_commit_are_idempotent(config, gateway_queue, open_learner):
    learner = begun(open_learner)
    group = valid_group()
    assert await feed(gateway_queue, [group, group]) == [ACCEPTED, DUPLICATE]
    taken = learner.take(2, 0, 2)
    assert ids(taken) == [group.group_id]
    assert await feed(gateway_queue, [group]) == [DUPLICATE]  # in flight
    refs = [one.ref for one in taken]
    assert [learner.commit(1, refs), learner.commit(1, refs)] == [1, 0]
    assert await feed(gateway_queue, [group]) == [DUPLICATE]  # trained
    assert (ledger(config).received, ledger(config).accepted, ledger(config).trained) == (4, 1, 1)
    assert learner.waiting() == 0


async def test_nothing_but_the_id_is_left_of_a_finished_group(config, gateway_queue, open_learner):
    learner = begun(open_learner)
    group = valid_group()
    await feed(gateway_queue, [group])
    learner.commit(1, [one.ref for one in learner.take(1, 0, 2)])
    await feed(gateway_queue, [group])  # a late resend SETs the payload again
    with client(config) as raw:
        assert raw.keys("*:group:*") == []
        (key,) = raw.keys("*:ids:*")  # pyright: ignore[reportGeneralTypeIssues]
        assert raw.hgetall(key) == {group.group_id.encode(): b"trained:1"}
        assert raw.ttl(key) == -1  # no clock of Redis's forgets it


async def test_queued_payloads_do_not_expire(config, gateway_queue):
    await feed(gateway_queue, [valid_group()])
    with client(config) as raw:
        assert [raw.ttl(key) for key in raw.keys("*:group:*") + raw.keys("*:ids:*")] == [-1, -1]  # pyright: ignore


async def test_an_append_without_its_payload_is_not_accepted(config):
    """The payload of an earlier attempt may expire right after SET NX has found it there."""
    group = valid_group()
    keys = Keys(RUN)
    names = [keys.fleets, keys.stream("alpha"), keys.ledger("alpha"), keys.leases, keys.lease_remaining]
    names += [keys.clock, keys.nonce, keys.halted, keys.memory("alpha")]
    names += [keys.ids("alpha", group.group_id), keys.payload("alpha", group.group_id)]
    values = ["alpha", "nonce", "0", group.group_id, "14", "8", "2", "99", "0.5", "0", ""]
    with client(config) as raw:
        raw.set(keys.nonce, "nonce")
        assert raw.eval(script("append").text, len(names), *names, *values) == b"m"
        assert raw.keys("*") == [keys.nonce.encode()]


async def test_too_old_groups_expire_and_are_counted(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=[0, 1, 2, 3])
    old, mixed, fresh = valid_group(0), valid_group(3), valid_group(2)
    mixed.responses[1].spans[0].version = 0
    await feed(gateway_queue, [old, fresh, mixed])
    taken = learner.take(5, step=3, expire_after=2)
    assert [(one.ref.group_id, one.staleness) for one in taken] == [(fresh.group_id, 1)]
    assert (ledger(config).expired, learner.expired(), learner.waiting()) == (2, 2, 0)
    assert await feed(gateway_queue, [old]) == [DUPLICATE]
    with client(config) as raw:
        counts = raw.hgetall(f"leeway:{{{RUN}}}:ledger:alpha")
    assert counts[b"length:expired:4"] == b"2"  # pyright: ignore


async def test_a_zombie_learner_changes_nothing(config, gateway_queue, open_learner):
    zombie = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(4)])
    taken = zombie.take(2, 0, 2)
    learner = open_learner()
    before = ledger(config)
    calls: list[Callable[[], object]] = [
        lambda: zombie.commit(1, [one.ref for one in taken]),
        lambda: zombie.take(1, 0, 2),
        lambda: zombie.publish(pb.Policy(version=1, step=1, epoch=zombie.epoch)),
        lambda: zombie.report(1, 1, 2),
        lambda: zombie.begin(0, []),
    ]
    for call in calls:
        with pytest.raises(FencedError, match="epoch 1 is over, the current one is 2"):
            call()
    assert ledger(config) == before
    assert learner.next_version() == 1
    learner.begin(0, [])
    assert ids(learner.take(9, 0, 2))[:2] == ids(taken)  # what the zombie had in flight comes first


async def test_a_dead_learners_groups_come_first_and_committed_ones_not_again(config, gateway_queue, open_learner):
    dead = begun(open_learner)
    groups = [valid_group() for _ in range(6)]
    await feed(gateway_queue, groups)
    taken = dead.take(4, 0, 2)
    learner = open_learner()
    contained = [one.ref for one in taken[:2]]  # what the surviving checkpoint contains
    assert learner.begin(1, contained) == 2
    assert learner.waiting() == 4
    assert ids(learner.take(3, 1, 4)) == [group.group_id for group in groups[2:5]]
    assert ids(learner.take(3, 1, 4)) == [groups[5].group_id]
    assert learner.commit(2, contained) == 0
    assert (ledger(config).trained, ledger(config).in_flight) == (2, 4)


async def test_taking_before_begin_is_an_error(open_learner):
    with pytest.raises(QueueError, match="before begin"):
        open_learner().take(1, 0, 0)


async def test_a_group_whose_payload_is_gone_is_lost_aloud(config, gateway_queue, open_learner, capsys):
    learner = begun(open_learner)
    gone, damaged, fine = valid_group(), valid_group(), valid_group()
    await feed(gateway_queue, [gone, damaged, fine])
    with client(config) as raw:
        raw.delete(f"leeway:{{{RUN}}}:group:alpha:{gone.group_id}")
        raw.set(f"leeway:{{{RUN}}}:group:alpha:{damaged.group_id}", b"\xff\xff\xff")
    assert ids(learner.take(5, 0, 2)) == [fine.group_id]
    logged = capsys.readouterr()
    assert "an accepted group is lost" in logged.out + logged.err
    # Such a ledger must not count as balanced.
    (account,) = read_ledgers(config.url, config.run)
    assert account.lost == 2
    assert "lost 2" in imbalances(account)[0]


async def test_fleets_share_by_tokens(config, gateway_queue, open_learner):
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(20)], "alpha", tokens=300)
    await feed(gateway_queue, [valid_group() for _ in range(20)], "beta", tokens=100)
    fleets = [one.ref.fleet for _ in range(4) for one in learner.take(5, 0, 2)]
    assert abs(fleets.count("beta") - 15) <= 1


async def test_expired_groups_do_not_count_against_their_fleet(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=[0, 1, 2, 3])
    await feed(gateway_queue, [valid_group(0) for _ in range(10)] + [valid_group(3) for _ in range(10)], "alpha")
    await feed(gateway_queue, [valid_group(3) for _ in range(20)], "beta")
    fleets = [one.ref.fleet for one in learner.take(12, 3, 0)]
    assert len(fleets) == 12
    assert abs(fleets.count("alpha") - 6) <= 1


async def test_versions_only_grow(config, gateway_queue, open_learner):
    learner = begun(open_learner, versions=[0, 1])
    learner.publish(pb.Policy(version=1, step=1, epoch=learner.epoch))  # repeated after a lost reply: nothing happens
    with pytest.raises(QueueError, match="VERSION 1 is not above the newest one, 1"):
        learner.publish(pb.Policy(version=1, step=2, epoch=learner.epoch))
    learner.publish(pb.Policy(version=5, step=2, epoch=learner.epoch))
    assert [policy.version for _, policy in await gateway_queue.policies("0")] == [0, 1, 5]
    assert (learner.next_version(), open_learner().next_version()) == (6, 6)


async def test_staleness_of_orphans_over_a_restart(config, gateway_queue, open_learner):
    begun(open_learner, versions=range(11))
    learner = begun(open_learner, resumed_step=6, versions=[])
    assert learner.staleness(10, 9) == (10 - 6) + (9 - 6)
    assert learner.staleness(6, 9) == 3
    # A third learner reads the same from Redis.
    assert open_learner().staleness(10, 9) == 7
    with pytest.raises(UnknownVersionError):
        learner.staleness(99, 9)


async def test_counts_and_quarantine(config, gateway_queue):
    flushed = await gateway_queue.flush(
        [],
        {"beta": {"received": 3, "retried": 2, "retried:full": 2, "rejected": 1, "rejected:temperature": 1}},
        ["{}"] * 30,
    )
    assert flushed.counted == {"beta"}
    assert ledger(config, "beta") == pb.Ledger(
        fleet="beta",
        received=3,
        retried=2,
        rejected=1,
        rejected_by_reason={"temperature": 1},
        retried_by_reason={"full": 2},
    )
    with client(config) as raw:
        assert raw.llen(f"leeway:{{{RUN}}}:quarantine") == 10


async def test_leases_never_promise_more_than_the_bound(config, gateway_queue, open_learner):
    learner = begun(open_learner)
    assert await lease(gateway_queue, wish("a", 6), bound=10) == 6
    assert await lease(gateway_queue, wish("b", 6, "beta"), bound=10) == 4
    assert await lease(gateway_queue, wish("c", 1), bound=10) == 0
    # A leased group that arrives is queued instead: no capacity is freed or counted twice.
    groups = [valid_group() for _ in range(3)]
    flushed = await gateway_queue.flush([append(group, lease_id="a") for group in groups], {}, [])
    assert flushed.outcomes == [ACCEPTED] * 3
    assert await lease(gateway_queue, wish("d", 9), bound=10) == 0
    # Another fleet's lease cannot be used or given back.
    assert await lease(gateway_queue, wish("e", 9, "beta", returned=["a"]), bound=10) == 0
    assert await lease(gateway_queue, wish("f", 9, "alpha", returned=["a"]), bound=10) == 3
    # Groups that a step was made with no longer count, committed or not.
    taken = learner.take(3, 0, 2)
    assert await lease(gateway_queue, wish("g", 9), bound=10) == 0
    learner.report(1, 0, uncommitted=3)
    assert await lease(gateway_queue, wish("h", 9), bound=10) == 3
    learner.commit(1, [one.ref for one in taken])
    learner.report(1, 0, uncommitted=0)
    assert await lease(gateway_queue, wish("i", 9), bound=10) == 0


async def test_running_versions(gateway_queue, open_learner):
    learner = begun(open_learner, versions=range(6))
    await lease(gateway_queue, wish("a", 1, worker="w0", running_version=3), bound=10)
    await lease(gateway_queue, wish("b", 1, "beta", worker="w0", running_version=5), bound=10)
    await lease(gateway_queue, wish("c", 1, worker="w1", running_version=None), bound=10)
    assert learner.running_versions(9) == {3, 5}
    await lease(gateway_queue, wish("d", 1, worker="w0", running_version=4), bound=10)
    assert learner.running_versions(9) == {4, 5}
    assert learner.running_versions(9, max_age_s=-1) == set()


async def test_versions_that_are_being_fetched_stay_as_well(gateway_queue, open_learner):
    learner = begun(open_learner, versions=range(6))
    await lease(gateway_queue, wish("a", 0, worker="w0", fetching_version=1), bound=10)
    await lease(gateway_queue, wish("b", 1, worker="w0", running_version=3, fetching_version=5), bound=10)
    await lease(gateway_queue, wish("c", 0, "beta", worker="w0", fetching_version=2), bound=10)
    assert learner.running_versions(9) == {2, 3, 5}
    assert learner.running_versions(9, max_age_s=-1) == set()


async def test_a_fleet_keeps_four_versions_however_many_workers_it_names(gateway_queue, open_learner):
    learner = begun(open_learner, versions=range(60))
    for version in [*range(60), 1000]:
        await lease(gateway_queue, wish("a", 1, worker=f"w{version}", running_version=version), bound=10)
    await lease(gateway_queue, wish("b", 1, "beta", worker="w0", running_version=50), bound=10)
    await lease(
        gateway_queue, wish("c", 1, "beta", worker="w1", running_version=0), bound=10
    )  # its groups would expire
    assert learner.running_versions(32) == {56, 57, 58, 59, 50}


async def test_memory_full_stops_fleets_but_not_the_learner(config, gateway_queue, open_learner):
    learner = begun(open_learner)
    await feed(gateway_queue, [valid_group() for _ in range(4)])
    with client(config) as raw:
        raw.config_set("maxmemory", 1)
        flushed = await gateway_queue.flush([append(valid_group())], {"alpha": {"received": 1, "retried": 1}}, [])
        assert (flushed.outcomes, flushed.counted) == ([Appended.MEMORY_FULL], set())
        taken = learner.take(4, 0, 2)
        learner.publish(pb.Policy(version=1, step=1, epoch=learner.epoch))
        learner.report(1, 1, 4)
        assert learner.commit(1, [one.ref for one in taken]) == 4
        successor = open_learner()
        assert successor.begin(1, []) == 0
        raw.config_set("maxmemory", 0)
    assert await feed(gateway_queue, [valid_group()]) == [ACCEPTED]
    assert ledger(config).trained == 4


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "redis://user:hidden@127.0.0.1:port/0", "127.0.0.1:6379"])
def test_a_bad_url_is_an_error_that_hides_the_password(url: str):
    with pytest.raises(QueueError, match=r"queue\.url = ") as caught:
        LearnerQueue.open(QueueConfig(url=url, run=RUN))
    assert "hidden" not in str(caught.value)


async def test_a_wrong_password_is_not_taken_for_an_outage(config):
    url = "redis://:wrong@" + config.url.rpartition("@")[2]
    queue = GatewayQueue(QueueConfig(url=url, run=RUN), 0)
    with pytest.raises(QueueError, match="refuses the credentials"):
        await queue.check()
    await queue.close()
