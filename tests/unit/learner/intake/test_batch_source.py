"""Rules of the batch source on rank 0 and on the others, over an in-memory broadcast and a scripted queue."""

import contextlib
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import structlog

from learner.config import CheckpointConfig, LearnerConfig, PublishConfig, QueueConfig
from learner.config.refill import RefillConfig
from learner.intake.batch_source import BatchSource, Command, IntakeError, InterruptedTake
from learner.intake.step_groups import StepGroups
from learner.intake.wait_log import WaitLog
from learner.queue import GroupRef, LearnerQueue, StillAwayError, TakenGroup, UnavailableError
from leeway.v1 import rollout_pb2 as pb


def taken(name: str, version: int = 0) -> TakenGroup:
    response = pb.Response(tokens=np.array([1, 2], "<i4").tobytes(), spans=[pb.Span(version=version, start=0, end=2)])
    return TakenGroup(GroupRef("fleet", name, "1-1"), pb.Group(group_id=name, responses=[response]), staleness=0)


def in_segments(name: str, *versions: int) -> TakenGroup:
    tokens = np.array([1, 2], "<i4").tobytes()
    segments = [
        pb.Segment(context_tokens=tokens, tokens=tokens, spans=[pb.Span(version=version, start=0, end=2)])
        for version in versions
    ]
    return TakenGroup(
        GroupRef("fleet", name, "1-1"), pb.Group(group_id=name, responses=[pb.Response(segments=segments)]), staleness=0
    )


class ScriptedQueue:
    """Returns from each call what the script has for it."""

    consumed = 0

    def __init__(self, *script: list[TakenGroup], waiting: int = 10**6) -> None:
        self.script = list(script)
        self.depth = waiting
        self.asked: list[int] = []
        self.bounds: set[int] = set()

    def take(self, groups: int, step: int, expire_after: int) -> list[TakenGroup]:
        self.asked.append(groups)
        self.bounds.add(expire_after)
        return self.script.pop(0) if self.script else []

    def waiting_at_most(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        self.patience = seconds
        return contextlib.nullcontext()

    def waiting(self) -> int:
        self.depth += 1
        return self.depth

    def staleness(self, version: int, step: int) -> int:
        return step - version

    def consumes(self, groups: int) -> None:
        self.consumed = groups


def config(tmp_path, **values: Any) -> LearnerConfig:
    values = {"refill": RefillConfig(enabled=False), **values}
    return LearnerConfig(
        model=tmp_path, queue=QueueConfig(url="redis://x", run="r"), steps=1, groups_per_step=3, metrics_dir=tmp_path,
        checkpoint=CheckpointConfig(dir=tmp_path), publish=PublishConfig(dir=tmp_path), **values,
    )  # fmt: skip


def source(settings: LearnerConfig, queue: ScriptedQueue, *rest, **named) -> BatchSource:
    return BatchSource(settings, StepGroups(settings, cast(LearnerQueue, queue), "effective"), *rest, **named)


def test_a_batch_is_gathered_over_calls_and_every_rank_gets_the_same(tmp_path):
    queue = ScriptedQueue([taken("a", 2)], [], [taken("b", 4), in_segments("c", 5, 3)])
    wire: list[bytes] = []

    def send(message: bytes | None) -> bytes:
        assert message is not None
        wire.append(message)
        return message

    lead = source(config(tmp_path), queue, send, lambda: False)
    got = lead.take(step=6)
    assert got is not None
    assert (queue.asked, queue.bounds) == ([3, 2, 2], {32})  # late groups are taken too: max_staleness is 4
    assert [ref.group_id for ref in got.refs] == ["a", "b", "c"]
    assert got.staleness == {2: 4, 4: 2, 5: 1, 3: 3}
    other = BatchSource(config(tmp_path), None, lambda _: wire[0], lambda: False).take(step=6)
    assert other is not None
    assert other.groups == got.groups
    assert other.staleness == got.staleness
    assert other.refs == []
    assert other.fleets == got.fleets == ["fleet"] * 3


def test_a_batch_without_some_groups_keeps_references_and_fleets_in_order(tmp_path):
    queue = ScriptedQueue([taken("a"), taken("b"), taken("c")])
    got = source(config(tmp_path), queue, lambda m: m or b"", lambda: False).take(0)
    assert got is not None
    rest = got.without({1})
    assert [one.group_id for one in rest.groups] == [ref.group_id for ref in rest.refs] == ["a", "c"]
    assert (len(rest.fleets), rest.staleness) == (2, got.staleness)
    assert replace(got, refs=[]).without({0}).refs == []


def test_hold_staleness_waits_until_enough_steps_are_queued(tmp_path):
    queue = ScriptedQueue([taken("a"), taken("b"), taken("c")], waiting=9)
    settings = config(tmp_path, hold_staleness=4, max_staleness=6)
    got = source(settings, queue, lambda m: m or b"", lambda: False).take(0)
    assert got is not None
    assert queue.depth == 15  # (4 + 1) * 3


def test_a_stop_request_reaches_every_rank(tmp_path):
    wire: list[bytes] = []
    lead = source(config(tmp_path), ScriptedQueue(), lambda m: wire.append(m or b"") or m or b"", lambda: True)
    assert lead.take(0) is None
    assert BatchSource(config(tmp_path), None, lambda _: wire[0], lambda: False).take(0) is None


def test_redis_that_is_away_is_waited_for_and_the_other_ranks_get_signs_of_life(tmp_path, monkeypatch):
    """The queue gives up each call after a while; the source goes on, and its heartbeats are not missed."""
    monkeypatch.setattr("learner.intake.batch_source._HEARTBEAT_S", -1.0)
    away, wire = iter(range(5)), []

    class AwayQueue(ScriptedQueue):
        def take(self, groups: int, step: int, expire_after: int) -> list[TakenGroup]:
            assert self.patience < 5.0
            if next(away, None) is not None:
                raise StillAwayError("Redis is not available")
            return super().take(groups, step, expire_after)

    queue = AwayQueue([taken("a"), taken("b"), taken("c")])
    lead = source(config(tmp_path), queue, lambda m: wire.append(m or b"") or m or b"", lambda: False)
    got = lead.take(0)
    assert got is not None
    assert len(got.groups) == 3
    assert [message[0] for message in wire] == [Command.WAIT] * 5 + [Command.TRAIN]


def test_an_outage_that_has_reached_its_limit_is_an_error(tmp_path):
    class DeadQueue(ScriptedQueue):
        def take(self, groups: int, step: int, expire_after: int) -> list[TakenGroup]:
            raise UnavailableError("Redis is not available")

    lead = source(config(tmp_path), DeadQueue(), lambda m: m or b"", lambda: False)
    with pytest.raises(UnavailableError):
        lead.take(0)


def test_without_take_timeout_s_the_source_waits_without_limit(tmp_path, monkeypatch):
    """Waits three weeks by the clock, with a log line now and then; then the groups come."""
    now, lines = [0.0], []

    class Clocked(WaitLog):
        def __init__(self, wanted: int) -> None:
            super().__init__(wanted, lambda: now[0])

        def waiting(self, step: int, have: int) -> None:
            lines.append((step, have))
            super().waiting(step, have)

    monkeypatch.setattr("learner.intake.batch_source.WaitLog", Clocked)
    queue = ScriptedQueue(*[[]] * 100, [taken("a")], [], [taken("b"), taken("c")])

    def pause() -> None:
        now[0] += 20_000.0

    lead = source(config(tmp_path), queue, lambda m: m or b"", lambda: False, pause=pause)
    got = lead.take(7)
    assert got is not None
    assert now[0] > 21 * 86_400
    assert lines[0] == (7, 0)
    assert lines[-1] == (7, 1)


def test_silence_is_an_error_on_every_rank(tmp_path):
    wire: list[bytes] = []
    silent = config(tmp_path, take_timeout_s=0.05)
    lead = source(silent, ScriptedQueue(), lambda m: wire.append(m or b"") or m or b"", lambda: False)
    with pytest.raises(IntakeError, match="no batch of 3 groups came"):
        lead.take(0)
    with pytest.raises(IntakeError, match="no batch of 3 groups came"):
        BatchSource(silent, None, lambda _: wire[0], lambda: False).take(0)


def test_looking_for_changes_does_not_begin_the_wait_again_and_a_pause_does(tmp_path, monkeypatch):
    """A backup that is being made interrupts the wait once a second, for hours; in a pause nothing is waited for."""
    now = [0.0]
    monkeypatch.setattr("learner.intake.batch_source.WaitLog", lambda wanted: WaitLog(wanted, lambda: now[0]))
    queue = ScriptedQueue()
    lead = source(config(tmp_path, take_timeout_s=100.0), queue, lambda m: m or b"", lambda: False)
    looks = [False]

    def wait() -> None:
        now[0] += 1.0
        looks[0] = True

    def looking() -> bool:
        looked, looks[0] = looks[0], False
        return looked

    lead._pause, lead.looking = wait, looking

    def interrupted(times: int) -> list[int]:
        with structlog.testing.capture_logs() as lines:
            for _ in range(times):
                with pytest.raises(InterruptedTake):
                    lead.take(0)
        return [line["waited_s"] for line in lines]

    assert interrupted(90) == [30]
    lead.pause(True)
    now[0] += 1000.0
    lead.pause(False)
    assert interrupted(90) == [30]
    with pytest.raises(IntakeError, match="no batch of 3 groups came"):
        interrupted(20)
    queue.script = [[taken("a"), taken("b"), taken("c")]]
    assert lead.take(0) is not None
    assert interrupted(90) == [30]  # the next batch's wait is one of its own
