"""Tests with real processes, end to end, that what fleets saw acknowledged is trained once or expired, whatever fails.

Each test starts a whole run (Redis, two gateways, a learner, four producers); they take a minute or two each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.account import Account
from tests.chaos.campaign import Campaign, Result
from tests.chaos.disk import SmallDisk
from tests.chaos.drain import drain, waiting
from tests.chaos.faults import Faults
from tests.chaos.plan import Plan
from tests.chaos.schedule import Fault, schedule
from tests.chaos.stack import Stack
from tests.chaos.tail import Tail

SEED = 3

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Plan], Stack]]:
    """Starts stacks, and closes them after the test."""
    started: list[Stack] = []

    def start_one(plan: Plan) -> Stack:
        started.append(Stack(tmp_path / f"stack-{len(started)}", plan))
        return started[-1]

    yield start_one
    for stack in started:
        stack.close()


def assert_nothing_lost_or_doubled(stack: Stack) -> Account:
    """Asserts that every acknowledged group of a drained stack was trained once or expired; returns the account."""
    account = Account.read(stack.directory)
    assert (account.lost, account.doubled) == ([], [])
    assert len(account.trained) > 100
    assert waiting(stack) == set()
    assert stack.imbalance() == []
    assert {(ledger.queued, ledger.in_flight) for ledger in stack.ledgers()} == {(0, 0)}
    # The ledger, compared with the logs, from which alone the account was made.
    assert sum(ledger.trained for ledger in stack.ledgers()) == len(account.trained)
    assert sum(ledger.accepted for ledger in stack.ledgers()) == len(account.acked)
    return account


def test_a_short_schedule_of_kills_loses_and_doubles_nothing(start):
    faults = schedule(8, SEED, ["gateway", "redis", "producer", "learner"], other_every=4)
    stack = start(Plan())
    result: Result = Campaign(stack, faults, minutes=12, changes=5).run()
    assert result.kills.total() == 8
    assert (result.changes, result.unsettled) == (5, [])
    assert min(result.kills.values()) >= 1
    assert (result.lost, result.imbalance) == ([], [])
    assert_nothing_lost_or_doubled(stack)
    assert result.account.retrained > 0  # the learner was killed with work that no checkpoint had


@pytest.mark.parametrize("aim", ["checkpoint", "publish"])
def test_a_learner_thawed_after_its_replacement_has_begun_changes_nothing(start, aim: str):
    """Freezes a learner while it writes, thaws it beside a second one, kills that, and lets a third go on from the second."""
    stack = start(Plan(gateways=1))
    faults = Faults(stack)
    stack.ready()
    (recovered,) = faults.do(Fault(1, "zombie", "learner", 0, aim))
    stack.until(recovered, "steps after the zombie's end", 120)
    second = max(stack.watch.epochs)
    checkpoints = stack.watch.events["checkpoint"]
    stack.until(lambda: stack.watch.events["checkpoint"] > checkpoints + 1, "checkpoints of the second learner", 120)
    assert stack.watch.epoch == second
    (recovered,) = faults.do(Fault(2, "kill", "learner", 0))
    stack.until(recovered, "steps of the third learner", 240)
    starts = [row for row in Tail(stack.directory / "metrics/learner.jsonl").rows() if row["kind"] == "start"]
    assert starts[-1]["resumed_epoch"] == second
    versions = [row["version"] for row in Tail(stack.directory / "metrics/learner.jsonl").rows() if "version" in row]
    assert int((stack.directory / "weights/latest").read_text()) <= max(versions)
    drain(stack)
    assert_nothing_lost_or_doubled(stack)


def test_a_full_disk_keeps_the_current_version_and_training_goes_on(start, tmp_path: Path):
    with SmallDisk.mounted(tmp_path / "disk", 96) as disk:
        if disk is None:
            pytest.skip(
                "this machine does not permit to mount a tmpfs; `python -m tests.chaos` limits file sizes instead"
            )
        places = {
            "checkpoint": {"dir": disk.directory / "checkpoints", "every": 4},
            "publish": {"dir": disk.directory / "weights", "every": 2},
        }
        stack = start(Plan(gateways=1, learner=places))
        stack.ready()
        events, starts = stack.watch.events, stack.members["learner"].starts

        def failed(kind: str) -> bool:
            disk.fill()  # a failed save gives its room back
            return events[kind] > 1

        stack.until(lambda: failed("publish_failed"), "failed publications", 120)
        stack.until(lambda: failed("checkpoint_failed"), "failed checkpoints", 120)
        current, steps = int((disk.directory / "weights/latest").read_text()), stack.watch.steps
        assert (disk.directory / f"weights/weight_v{current:06d}/manifest.json").is_file()
        stack.until(lambda: failed("publish_failed") and stack.watch.steps > steps + 8, "steps with a full disk", 120)
        assert int((disk.directory / "weights/latest").read_text()) == current
        versions, checkpoints = events["version"], events["checkpoint"]
        disk.free()
        stack.until(lambda: events["version"] > versions, "version with room again", 120)
        stack.until(lambda: events["checkpoint"] > checkpoints, "checkpoint with room again", 120)
        assert stack.members["learner"].starts == starts  # its port may have been taken at its first start
        drain(stack)
        assert_nothing_lost_or_doubled(stack)
        stack.close()  # before its disk goes


def test_a_fleet_cut_off_generates_nothing_beyond_its_lease(start):
    stack = start(Plan(gateways=1))
    stack.ready()
    producer = stack.directory / "producers/producer-1.jsonl"  # the one with leases
    link = stack.links["fleet-0"]
    stack.network.silence(link, True)
    asked = sum(row["kind"] == "ask" for row in Tail(producer).rows())
    # It gives each call three seconds, then asks again by itself.
    log = stack.members["producer-1"].child.log
    stack.until(lambda: log.read_text().count("DEADLINE_EXCEEDED") > 1, "two calls that nobody answered", 60)
    steps = stack.watch.steps
    rows = Tail(producer).rows()
    granted = sum(row["groups"] for row in rows if row["kind"] == "lease")
    assert sum(row["kind"] == "made" for row in rows) == granted
    assert sum(row["kind"] == "ask" for row in rows) <= asked + 1
    stack.network.silence(link, False)
    acked = stack.watch.acked("producer-1")
    stack.until(lambda: stack.watch.acked("producer-1") > acked, "acks after the cut", 60)
    stack.until(lambda: stack.watch.steps > steps, "steps after the cut", 60)
    drain(stack)
    assert_nothing_lost_or_doubled(stack)
