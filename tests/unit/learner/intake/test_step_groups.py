"""How a step is filled: which groups count, when it takes others in their place, and when it goes without."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import numpy as np
import pytest

from learner.batch.weighting import Keep
from learner.config import LearnerConfig
from learner.intake.batch_source import BatchSource, IntakeError, TakenBatch
from learner.intake.step_groups import StepGroups
from learner.queue import GroupRef, LearnerQueue, StillAwayError, TakenGroup
from leeway.v1 import rollout_pb2 as pb

_BYTES = np.arange(1000, dtype="<i4").tobytes()


def group(name: str, *rewards: float, age: int = 0) -> TakenGroup:
    """A group of these rewards; its name says what is expected of it."""
    spans = [pb.Span(version=100 - age, start=0, end=1000)]
    responses = [pb.Response(tokens=_BYTES, reward=reward, spans=spans) for reward in rewards]
    return TakenGroup(
        GroupRef("f", name, name), pb.Group(group_id=name, prompt_tokens=_BYTES, responses=responses), age
    )


def right(name: str, age: int = 0) -> TakenGroup:
    return group(name, 1.0, 1.0, age=age)


def mixed(name: str, age: int = 0) -> TakenGroup:
    return group(name, 0.0, 1.0, age=age)


class Queue:
    """A queue of given groups; None in it stands for a moment in which it is empty."""

    def __init__(self, *groups: TakenGroup | None, consumed: int = 0, waiting: int = 10**6) -> None:
        self.groups = list(groups)
        self.consumed, self.depth = consumed, waiting
        self.asked: list[int] = []
        self.freed: list[list[str]] = []
        self.away = 0  # how many calls of free_capacity fail

    def waiting_at_most(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def take(self, groups: int, step: int, expire_after: int) -> list[TakenGroup]:
        self.asked.append(groups)
        taken: list[TakenGroup] = []
        while self.groups and len(taken) < groups:
            if (one := self.groups.pop(0)) is None:
                break
            taken.append(one)
        return taken

    def waiting(self) -> int:
        self.depth += 1
        return self.depth

    def staleness(self, version: int, step: int) -> int:
        return 100 - version

    def consumes(self, groups: int) -> None:
        self.consumed = groups

    def free_capacity(self, refs: list[GroupRef]) -> None:
        if self.away:
            self.away -= 1
            raise StillAwayError("Redis is not available")
        self.freed.append([ref.group_id for ref in refs])


class Rank:
    """Rank 0 and another one, over a queue of given groups. ``pauses`` waits end the run."""

    def __init__(self, queue: Queue, keep: Keep = "effective", pauses: int = 50, **values: Any) -> None:
        base = {
            "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 9, "metrics_dir": "x", "groups_per_step": 2,
            "checkpoint": {"dir": "x"}, "publish": {"dir": "x"},
        }  # fmt: skip
        self.queue, self.wire, self.pauses, self.left = queue, list[bytes](), 0, pauses
        self.config = LearnerConfig.parse({**base, **values}, "test")
        collector = StepGroups(self.config, cast(LearnerQueue, queue), keep)
        self.source = BatchSource(self.config, collector, self._send, lambda: self.left <= 0, pause=self._pause)

    def take(self, step: int = 0) -> TakenBatch:
        got = self.source.take(step)
        assert got is not None, "it waits"
        other = BatchSource(self.config, None, lambda _: self.wire[-1], lambda: False).take(step)
        assert other is not None
        assert (other.groups, other.fleets, other.staleness) == (got.groups, got.fleets, got.staleness)
        assert (other.uncounted, other.ending) == (got.uncounted, got.ending)
        return got

    def _send(self, message: bytes | None) -> bytes:
        self.wire.append(message or b"")
        return message or b""

    def _pause(self) -> None:
        self.left -= 1


def names(taken: TakenBatch) -> tuple[list[str], list[str]]:
    """Names of the groups that count, and of the others."""
    split = len(taken.groups) - taken.uncounted
    ids = [one.group_id for one in taken.groups]
    assert ids == [ref.group_id for ref in taken.refs]
    assert [one.group_id for one in taken.counted] == ids[:split]
    return ids[:split], ids[split:]


def test_a_step_takes_others_in_the_place_of_groups_without_contrast():
    rank = Rank(Queue(right("a"), mixed("b"), group("c", 0.0, 0.0), mixed("d"), mixed("next")))
    taken = rank.take()
    assert names(taken) == (["b", "d"], ["a", "c"])
    assert taken.ending == "full"
    assert rank.queue.asked == [2, 1, 1]  # never more than it lacks: no group waits in the step for the one after it
    assert rank.queue.groups == [mixed("next")]


def test_a_group_that_does_not_count_is_kept_and_broadcast_without_its_tokens():
    rank = Rank(Queue(right("a"), mixed("b"), mixed("c")))
    taken = rank.take()
    assert taken.groups[2].ByteSize() < 100 < 3000 < taken.groups[0].ByteSize()
    assert len(rank.wire[-1]) < 2 * 12_100 + 500  # two of three groups of 12 kB
    assert [response.reward for response in taken.groups[2].responses] == [1.0, 1.0]


def test_with_refill_off_every_group_counts_whole():
    rank = Rank(Queue(right("a"), right("b"), mixed("c")), refill={"enabled": False})
    taken = rank.take()
    assert names(taken) == (["a", "b"], [])
    assert taken.groups[0].ByteSize() > 3000
    assert rank.queue.freed == []


def test_the_bound_on_groups_ends_the_step_with_what_it_has():
    rank = Rank(Queue(*(right(str(n)) for n in range(5)), mixed("x"), mixed("next")), refill={"most": 3})
    taken = rank.take()
    assert names(taken) == (["x"], ["0", "1", "2", "3", "4"])
    assert taken.ending == "most"
    assert rank.queue.groups == [mixed("next")]


def test_a_step_of_nothing_but_groups_without_contrast_ends_too():
    taken = Rank(Queue(*(right(str(n)) for n in range(9)))).take()
    assert (names(taken)[0], taken.uncounted, taken.ending) == ([], 8, "most")


def test_added_terms_train_groups_without_contrast_which_count_then():
    unscored = group("u", 1.0, 1.0)
    unscored.group.responses[0].unscored = "reward_timeout"
    taken = Rank(Queue(unscored, right("a"), right("b")), keep="all").take()
    assert names(taken) == (["a", "b"], ["u"])


def test_a_step_waits_for_groups_that_are_yet_to_be_made():
    rank = Rank(Queue(mixed("a"), right("b"), None, None, None, mixed("c")))
    assert names(rank.take()) == (["a", "c"], ["b"])


@pytest.mark.parametrize("age", [4, 5])
def test_a_late_group_waits_for_none_once_the_step_has_taken_its_number(age: int):
    """max_staleness is 4: at 4 it waits, as it gets no staler; at 5 the step goes on without the second one."""
    rank = Rank(Queue(mixed("a", age), None, None, right("b"), None, mixed("c")))
    taken = rank.take()
    assert names(taken) == ((["a", "c"], ["b"]) if age == 4 else (["a"], ["b"]))
    assert taken.ending == ("full" if age == 4 else "late")


def test_a_late_group_takes_what_waits_already_and_an_uncounted_one_hurries_nobody():
    assert names(Rank(Queue(mixed("a", 9), right("b"), right("c"), mixed("d"))).take()) == (["a", "d"], ["b", "c"])
    assert names(Rank(Queue(mixed("a"), right("b", 9), None, mixed("d"))).take()) == (["a", "d"], ["b"])


def test_the_capacity_of_groups_that_do_not_count_is_freed_when_the_queue_is_empty():
    rank = Rank(Queue(right("a"), right("b"), None, mixed("c"), right("d"), None, mixed("e")))
    assert names(rank.take()) == (["c", "e"], ["a", "b", "d"])
    assert rank.queue.freed == [["a", "b"], ["d"]]  # each once, and before more is waited for


def test_capacity_that_could_not_be_freed_is_freed_later():
    rank = Rank(Queue(right("a"), right("b"), None, mixed("c"), mixed("d")))
    rank.queue.away = 3
    assert names(rank.take()) == (["c", "d"], ["a", "b"])
    assert rank.queue.freed == [["a", "b"]]


def test_what_a_step_consumes_is_told_and_hold_staleness_waits_for_so_much():
    queue = Queue(right("a"), right("b"), mixed("c"), mixed("d"), mixed("e"), mixed("f"), waiting=0)
    rank = Rank(queue, hold_staleness=2, max_staleness=4)
    rank.take()
    assert (queue.depth, queue.consumed) == (6, 3)  # (2 + 1) * 2; 2 + 0.2 * (4 - 2), rounded up
    queue.depth = 0
    rank.take(1)
    assert queue.depth == 9  # (2 + 1) * 3


def test_take_timeout_s_fails_only_a_step_that_has_too_few_groups_of_any_kind():
    taken = Rank(Queue(mixed("a"), right("b")), take_timeout_s=1e-9).take()
    assert (names(taken), taken.ending) == ((["a"], ["b"]), "timeout")
    with pytest.raises(IntakeError):
        Rank(Queue(mixed("a")), take_timeout_s=1e-9).take()


def saturating(share: float, groups: int) -> list[TakenGroup | None]:
    """Groups of a task of whose prompts ``share`` are solved: without contrast."""
    random = np.random.default_rng(7)
    return [(right if random.random() < share else mixed)(str(number)) for number in range(groups)]


@pytest.mark.parametrize("enabled", [True, False])
def test_on_a_task_that_saturates_steps_keep_their_informative_groups(enabled: bool):
    """The task goes from nothing solved to three quarters solved: without refill a step shrinks to a quarter."""
    informative: list[list[int]] = []
    for share in (0.0, 0.25, 0.5, 0.75):
        rank = Rank(Queue(*saturating(share, 4000)), groups_per_step=16, refill={"enabled": enabled, "most": 8})
        steps = [rank.take(step) for step in range(9)]
        informative.append([sum(len({r.reward for r in one.responses}) > 1 for one in step.groups) for step in steps])
        assert sum(len(step.groups) for step in steps) == 4000 - len(rank.queue.groups)
    if enabled:
        assert informative == [[16] * 9] * 4
    else:
        assert [max(steps) for steps in informative][-1] < 9
        assert np.mean(informative, axis=1) == pytest.approx([16, 12, 8, 4], abs=2)
