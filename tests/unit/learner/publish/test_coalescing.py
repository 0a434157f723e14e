"""Which snapshot is published next: rank 0's decisions, and what each rank holds, in every order of the two threads."""

from __future__ import annotations

import threading

import pytest

from learner.publish.coalescing import Coalescer, Decision, HeldSnapshots, Snapshot
from tests.tools.publishing import Ready


def snapshot(ticket: int) -> Snapshot:
    return Snapshot(ticket, version=ticket, step=ticket, source=Ready([]))


def hand_over(held: HeldSnapshots, one: Snapshot, running: int) -> None:
    held.drop_all_but(running)
    held.add(one)


def test_a_free_publisher_begins_at_once_and_numbers_have_no_gaps():
    coalescer = Coalescer(6)
    assert coalescer.offer(0, 10) == Decision(version=7, running=0, replaced=None)
    assert coalescer.next() is None
    assert coalescer.offer(1, 11) == Decision(version=8, running=1, replaced=None)


def test_a_newer_snapshot_takes_place_and_number_of_the_one_that_waits():
    coalescer = Coalescer(-1)
    coalescer.offer(0, 10)
    assert coalescer.offer(1, 11) == Decision(version=1, running=0, replaced=None)
    assert coalescer.offer(2, 12) == Decision(version=1, running=0, replaced=11)
    assert coalescer.offer(3, 13) == Decision(version=1, running=0, replaced=12)
    assert coalescer.next() == 3
    assert coalescer.offer(4, 14) == Decision(version=2, running=3, replaced=None)
    assert coalescer.next() == 4
    assert coalescer.next() is None


def test_a_rank_holds_the_one_that_runs_and_the_newest():
    held = HeldSnapshots()
    hand_over(held, snapshot(0), running=0)
    hand_over(held, snapshot(1), running=0)
    hand_over(held, snapshot(2), running=0)
    assert len(held) == 2
    assert [held.take(ticket, 60).ticket for ticket in (0, 2)] == [0, 2]
    assert len(held) == 0


def test_what_is_replaced_is_let_go_before_the_newer_one_comes():
    held, exports = HeldSnapshots(), [Ready([]) for _ in range(3)]
    for ticket in range(2):
        held.drop_all_but(0)
        held.add(Snapshot(ticket, ticket, ticket, exports[ticket]))
    held.drop_all_but(0)
    assert [export.released for export in exports] == [0, 1, 0]
    assert held.take(0, 60).source is exports[0]


def test_a_rank_whose_loop_is_ahead_keeps_what_rank_0_has_begun():
    """Rank 0 took snapshot 1 before it reached snapshot 2; this rank's publisher has not heard of that yet."""
    held = HeldSnapshots()
    hand_over(held, snapshot(0), running=0)
    held.take(0, 60)
    hand_over(held, snapshot(1), running=0)
    hand_over(held, snapshot(2), running=1)
    assert held.take(1, 60).ticket == 1
    assert held.take(2, 60).ticket == 2


def test_a_rank_whose_loop_is_behind_is_waited_for():
    """Snapshot 2 has the number of snapshot 1, which this rank still holds: only the ticket tells them apart."""
    held = HeldSnapshots()
    hand_over(held, snapshot(1), running=0)
    taken: list[Snapshot] = []
    publisher = threading.Thread(target=lambda: taken.append(held.take(2, 60)), daemon=True)
    publisher.start()
    hand_over(held, snapshot(2), running=2)
    publisher.join(60)
    assert [one.ticket for one in taken] == [2]


def test_a_rank_whose_loop_does_not_come_is_given_up():
    with pytest.raises(TimeoutError, match="has not handed over snapshot 5"):
        HeldSnapshots().take(5, 0.01)
