"""Rules of the batch source on rank 0 and on the others, over an in-memory broadcast and a scripted queue."""

import numpy as np
import pytest

from learner.config import CheckpointConfig, LearnerConfig, PublishConfig, QueueConfig
from learner.intake.batch_source import BatchSource, IntakeError
from learner.queue import GroupRef, TakenGroup
from leeway.v1 import rollout_pb2 as pb


def taken(name: str, version: int = 0) -> TakenGroup:
    response = pb.Response(tokens=np.array([1, 2], "<i4").tobytes(), spans=[pb.Span(version=version, start=0, end=2)])
    return TakenGroup(GroupRef("fleet", name, "1-1"), pb.Group(group_id=name, responses=[response]), staleness=0)


class ScriptedQueue:
    """Returns from each call what the script has for it."""

    def __init__(self, *script: list[TakenGroup], waiting: int = 10**6) -> None:
        self.script = list(script)
        self.depth = waiting
        self.asked: list[int] = []

    def take(self, groups: int, step: int, max_staleness: int) -> list[TakenGroup]:
        self.asked.append(groups)
        return self.script.pop(0) if self.script else []

    def waiting(self) -> int:
        self.depth += 1
        return self.depth

    def staleness(self, version: int, step: int) -> int:
        return step - version


def config(tmp_path, **values) -> LearnerConfig:
    return LearnerConfig(
        model=tmp_path, queue=QueueConfig(url="redis://x", run="r"), steps=1, groups_per_step=3, metrics_dir=tmp_path,
        checkpoint=CheckpointConfig(dir=tmp_path), publish=PublishConfig(dir=tmp_path), **values,
    )  # fmt: skip


def test_a_batch_is_gathered_over_calls_and_every_rank_gets_the_same(tmp_path):
    queue = ScriptedQueue([taken("a", 2)], [], [taken("b", 4), taken("c", 5)])
    wire: list[bytes] = []

    def send(message: bytes | None) -> bytes:
        assert message is not None
        wire.append(message)
        return message

    lead = BatchSource(config(tmp_path), queue, send, lambda: False)  # pyright: ignore[reportArgumentType]
    got = lead.take(step=6)
    assert got is not None
    assert queue.asked == [3, 2, 2]
    assert [ref.group_id for ref in got.refs] == ["a", "b", "c"]
    assert got.staleness == {2: 4, 4: 2, 5: 1}
    other = BatchSource(config(tmp_path), None, lambda _: wire[0], lambda: False).take(step=6)
    assert other is not None
    assert other.groups == got.groups
    assert other.staleness == got.staleness
    assert other.refs == []


def test_hold_staleness_waits_until_enough_steps_are_queued(tmp_path):
    queue = ScriptedQueue([taken("a"), taken("b"), taken("c")], waiting=9)
    settings = config(tmp_path, hold_staleness=4, max_staleness=6)
    got = BatchSource(settings, queue, lambda m: m or b"", lambda: False).take(0)  # pyright: ignore[reportArgumentType]
    assert got is not None
    assert queue.depth == 15  # (4 + 1) * 3


def test_a_stop_request_reaches_every_rank(tmp_path):
    wire: list[bytes] = []
    lead = BatchSource(config(tmp_path), ScriptedQueue(), lambda m: wire.append(m or b"") or m or b"", lambda: True)  # pyright: ignore[reportArgumentType]
    assert lead.take(0) is None
    assert BatchSource(config(tmp_path), None, lambda _: wire[0], lambda: False).take(0) is None


def test_silence_is_an_error_on_every_rank(tmp_path):
    wire: list[bytes] = []
    silent = config(tmp_path, take_timeout_s=0.05)
    lead = BatchSource(silent, ScriptedQueue(), lambda m: wire.append(m or b"") or m or b"", lambda: False)  # pyright: ignore[reportArgumentType]
    with pytest.raises(IntakeError, match="no batch of 3 groups came"):
        lead.take(0)
    with pytest.raises(IntakeError, match="no batch of 3 groups came"):
        BatchSource(silent, None, lambda _: wire[0], lambda: False).take(0)
