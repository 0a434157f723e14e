"""Prefetching one step ahead and no further: what the loop is given, when fetching begins, and how it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from learner.batch.packing import Layout
from learner.batch.weighting import DEFAULT
from learner.config import LearnerConfig
from learner.intake.batch_source import IntakeError
from learner.intake.prefetch import Prefetch
from learner.intake.preparation import Preparation, PreparedBatch
from learner.megatron.parallel import Ranks
from learner.queue import GroupRef, LearnerQueue, TakenGroup
from leeway.v1 import rollout_pb2 as pb


def config(**values: Any) -> LearnerConfig:
    base = {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 3, "metrics_dir": "x", "groups_per_step": 1,
        "checkpoint": {"dir": "x"}, "publish": {"dir": "x"},
    }  # fmt: skip
    return LearnerConfig.parse({**base, **values}, "test")


def group(name: str) -> TakenGroup:
    tokens, spans = np.array([1, 2], "<i4").tobytes(), [pb.Span(version=0, start=0, end=2)]
    responses = [pb.Response(tokens=tokens, reward=reward, spans=spans) for reward in (0.0, 1.0)]
    return TakenGroup(GroupRef("f", name, "1-1"), pb.Group(group_id=name, prompt_tokens=tokens, responses=responses), 0)


class Queue:
    """Hands out one group a step, once the test lets it."""

    consumed = 0
    changes_wait = False  # as the queue knows it
    changes = False  # as it would find it

    def __init__(self) -> None:
        self.asked: list[int] = []  # the steps that something was taken for
        self.open = threading.Event()
        self.open.set()

    def take(self, groups: int, step: int, expire_after: int) -> list[TakenGroup]:
        if not self.open.is_set():
            return []
        self.asked.append(step)
        return [group(str(step))]

    def waiting_at_most(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def look_for_changes(self) -> None:
        self.changes_wait = self.changes

    def waiting(self) -> int:
        return 99

    def staleness(self, version: int, step: int) -> int:
        return step - version

    def consumes(self, groups: int) -> None:
        self.consumed = groups


class OneRank:
    other = False  # what another rank says, when asked whether any does

    def channel(self) -> Callable[[bytes | None], bytes]:
        return lambda data: data or b""

    def largest(self, value: int) -> int:
        return max(value, 2 * self.other)


class Loop:
    """A loop of one rank around a Prefetch."""

    def __init__(self, **values: Any) -> None:
        self.queue, self.stop, self.beats, self.ranks = Queue(), False, 0, OneRank()
        services = (cast(LearnerQueue, self.queue), cast(Ranks, self.ranks))
        preparation = Preparation(DEFAULT, Layout(), 4)
        self.prefetch = Prefetch(config(**values), *services, lambda: self.stop, self._progress, preparation)

    def take(self, step: int) -> PreparedBatch:
        prepared = self.prefetch.take(step)
        assert isinstance(prepared, PreparedBatch)
        return prepared

    def _progress(self) -> None:
        self.beats += 1

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def idle(self) -> bool:
        return not any(thread.name.startswith("fetch-") for thread in threading.enumerate())


def test_the_next_batch_is_taken_decoded_and_packed_while_this_one_trains():
    loop = Loop()
    loop.take(0)
    loop.until(lambda: loop.queue.asked == [0, 1] and loop.idle())
    loop.queue.open.clear()
    second = loop.take(1)  # nothing more is to be had, and nothing more is needed
    assert [ref.group_id for ref in second.taken.refs] == ["1"]
    assert second.groups.staleness_max == 1  # of the step that trains it, not of the one that was trained meanwhile
    assert [len(sequence.tokens) for sequence in second.sequences] == [4, 4]
    assert second.batch is not None
    assert second.batch.micro_batches[0].tokens.tolist() == [[1, 2, 1, 2] * 2]
    loop.prefetch.close()


def test_nothing_is_taken_beyond_the_last_step():
    loop = Loop(steps=2)
    assert loop.prefetch.take(0) is not None
    assert loop.prefetch.take(1) is not None
    loop.until(loop.idle)
    assert loop.queue.asked == [0, 1]


def test_with_hold_staleness_a_steps_groups_are_taken_when_it_begins():
    loop = Loop(hold_staleness=2)
    assert loop.prefetch.take(0) is not None
    loop.until(loop.idle)
    assert loop.queue.asked == [0]


def test_a_stop_that_another_rank_was_told_counts_too():
    loop = Loop()
    assert loop.prefetch.take(0) is not None
    loop.ranks.other = True
    assert loop.prefetch.take(1) is None
    loop.prefetch.close()


def test_a_stop_counts_though_a_batch_is_there():
    loop = Loop()
    assert loop.prefetch.take(0) is not None
    loop.until(lambda: loop.queue.asked == [0, 1])
    loop.stop = True
    assert loop.prefetch.take(1) is None
    loop.until(loop.idle)
    assert loop.queue.asked == [0, 1]


def test_a_stop_ends_the_wait_for_groups():
    loop = Loop()
    assert loop.prefetch.take(0) is not None
    loop.until(loop.idle)
    loop.queue.open.clear()
    assert loop.prefetch.take(1) is not None
    threading.Timer(0.05, lambda: setattr(loop, "stop", True)).start()
    assert loop.prefetch.take(2) is None


def test_waiting_ahead_reports_no_progress():
    loop = Loop()
    assert loop.prefetch.take(0) is not None
    loop.until(lambda: loop.queue.asked == [0, 1] and loop.idle())
    beats = loop.beats
    assert loop.prefetch.take(1) is not None
    loop.until(loop.idle)
    assert loop.beats == beats + 1  # at its own batch: the thread that fetched for step 2 reported nothing
    loop.queue.open.clear()
    assert loop.prefetch.take(2) is not None


def test_silence_of_the_fleets_is_raised_in_the_loop():
    loop = Loop(take_timeout_s=0.05)
    loop.queue.open.clear()
    with pytest.raises(IntakeError, match="no batch of 1 groups came"):
        loop.prefetch.take(0)
    assert loop.beats > 0


def test_close_ends_a_fetch_under_way():
    loop = Loop(steps=9)
    assert loop.prefetch.take(0) is not None
    loop.until(loop.idle)
    loop.queue.open.clear()
    assert loop.prefetch.take(1) is not None
    assert not loop.idle()
    loop.prefetch.close()
    loop.until(loop.idle)
    assert loop.queue.asked == [0, 1]


def test_changes_that_wait_are_looked_at_before_the_step_and_its_batch_stays():
    loop = Loop()
    loop.take(0)
    loop.until(lambda: loop.queue.asked == [0, 1] and loop.idle())
    loop.queue.changes_wait = True
    assert loop.prefetch.take(1) == "look"
    assert loop.prefetch.take(1) == "look"
    loop.queue.changes_wait = False
    assert [ref.group_id for ref in loop.take(1).taken.refs] == ["1"]
    loop.prefetch.close()


def test_changes_interrupt_a_wait_for_groups():
    loop = Loop()
    loop.queue.open.clear()
    loop.queue.changes = True
    assert loop.prefetch.take(0) == "look"
    loop.queue.changes = loop.queue.changes_wait = False
    loop.queue.open.set()
    assert [ref.group_id for ref in loop.take(0).taken.refs] == ["0"]
    loop.prefetch.close()


def test_while_it_is_paused_nothing_is_taken_and_no_time_is_over():
    loop = Loop(take_timeout_s=0.001)
    loop.prefetch.pause(True)
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(loop.prefetch.take(0)))
    thread.start()
    beats = loop.beats
    loop.until(lambda: loop.queue.changes_wait or loop.prefetch._loop_waits.is_set())
    for _ in range(5):  # five rounds of the wait, each of which would have ended it
        loop.queue.changes_wait, loop.queue.changes = False, False
        looked = threading.Event()
        loop.queue.look_for_changes = looked.set
        assert looked.wait(60)
    assert loop.queue.asked == []
    assert taken == []
    loop.prefetch.pause(False)
    thread.join(60)
    assert [ref.group_id for ref in taken[0].taken.refs] == ["0"]
    assert loop.beats > beats
    loop.prefetch.close()
