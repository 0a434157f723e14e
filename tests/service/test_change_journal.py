"""The journal of changes in a real Redis: each request counts once, what waits is settled once, and it stays bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner.changes.pending import PendingChanges
from learner.config import QueueConfig
from learner.config.changeable import ChangeError
from learner.publish.catalog import PINNED
from learner.queue import FencedError, LearnerQueue
from learner.queue import change_journal as module
from learner.queue.change_journal import ChangeJournal
from learner.run import RankZeroCallbacks
from leeway.v1 import operator_pb2 as op
from tests.service.fleet import RUN

PENDING, APPLIED, REFUSED = op.CHANGE_STATE_PENDING, op.CHANGE_STATE_APPLIED, op.CHANGE_STATE_REFUSED


def settings(**values: str) -> op.Change:
    return op.Change(set=op.SetSettings(values={name.replace("__", "."): value for name, value in values.items()}))


@pytest.fixture
def config(redis_server: Any) -> QueueConfig:
    return QueueConfig(url=redis_server.url, run=RUN)


def test_the_same_request_again_is_the_same_change(config: QueueConfig):
    with ChangeJournal(config) as journal:
        first = journal.request("once", "ann", settings(steps="9"))
        with ThreadPoolExecutor(8) as pool:
            again = list(pool.map(lambda _: journal.request("once", "bob", op.Change(pause=op.Pause())), range(16)))

        assert (first.number, first.state, first.operator) == (1, PENDING, "ann")
        assert again == [first] * 16
        assert journal.pending() == [first]
        assert journal.list(after=0) == [first]
        assert journal.list(after=1) == []
        assert journal.list(request_id="once") == [first]
        assert journal.list(request_id="never") == []


def test_what_waits_is_in_force_once_it_is_settled_and_is_settled_once(config: QueueConfig):
    with ChangeJournal(config) as journal:
        journal.request("a", "ann", settings(optimizer__lr="1e-5", gateway__admission__max_queued_groups="8"))
        journal.request("b", "ann", op.Change(pause=op.Pause()))
        journal.request("c", "ann", op.Change(pin=op.PinVersion(version=3)))
        journal.request("d", "ann", op.Change(finish=op.Finish()))
        journal.request("e", "ann", settings(steps="-1"))
        assert (journal.settings(), journal.paused(), journal.pinned()) == ({}, False, set())

        journal.settle(1, APPLIED, "", 4, {"optimizer.lr": "1e-06"}, {"optimizer.lr": "1e-05"})
        for number in (2, 3):
            journal.settle(number, APPLIED)
        journal.settle(4, APPLIED, "", 4, {}, {"steps": "3"})
        journal.settle(5, REFUSED, "steps = -1: too few", 4)
        journal.settle(5, APPLIED, "changed my mind", 5)

        values = {"gateway.admission.max_queued_groups": "8", "optimizer.lr": "1e-5", "steps": "3"}
        assert journal.settings() == values
        assert (journal.paused(), journal.pinned(), journal.pending()) == (True, {3}, [])
        last = journal.list(after=4)[0]
        assert (last.state, last.reason, last.step) == (REFUSED, "steps = -1: too few", 4)
        journal.request("f", "ann", op.Change(unset=op.UnsetSettings(names=["steps", "optimizer.lr"])))
        journal.request("g", "ann", op.Change(resume=op.Resume()))
        journal.request("h", "ann", op.Change(unpin=op.UnpinVersion(version=3)))
        for number in (6, 7, 8):
            journal.settle(number, APPLIED)
        assert journal.in_force() == module.InForce(
            {"gateway.admission.max_queued_groups": "8"}, frozenset(), frozenset(), False
        )


def test_what_gateways_apply_is_in_force_at_once_and_judged_by_what_is(config: QueueConfig):
    name = "gateway.admission.quota.groups_per_s"
    with ChangeJournal(config) as journal:
        drained = journal.request("a", "ann", op.Change(drain=op.DrainFleet(fleet="tokyo")))
        journal.request("b", "ann", settings(**{name.replace(".", "__"): "5"}))
        seen = []

        def judge(in_force: Any) -> tuple[dict[str, str], dict[str, str]]:
            seen.append(dict(in_force))
            if len(seen) == 1:  # another operator is quicker
                journal.request("between", "bob", settings(**{name.replace(".", "__"): "6"}))
            return {name: in_force[name]}, {name: "7"}

        change = journal.request("c", "ann", settings(**{name.replace(".", "__"): "7"}), judge)

        assert (drained.state, drained.step, journal.drained()) == (APPLIED, 0, {"tokyo"})
        assert seen == [{name: "5"}, {name: "6"}]
        assert (dict(change.old_values), dict(change.new_values)) == ({name: "6"}, {name: "7"})
        assert journal.settings() == {name: "7"}
        journal.request("d", "ann", op.Change(undrain=op.UndrainFleet(fleet="tokyo")))
        assert journal.drained() == set()


def test_it_keeps_the_newest_changes_and_those_that_wait_and_what_is_in_force(
    config: QueueConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "CHANGES_KEPT", 6)
    monkeypatch.setattr(module, "MOST_PENDING", 3)
    with ChangeJournal(config) as journal:
        journal.request("set", "ann", settings(gateway__admission__max_queued_groups="8"))
        for number in range(3):
            journal.request(f"waits-{number}", "ann", op.Change(pause=op.Pause()))
        with pytest.raises(ChangeError, match="3 changes wait for the learner already"):
            journal.request("one-more", "ann", op.Change(pause=op.Pause()))
        for number in range(20):
            journal.request(f"drain-{number}", "ann", op.Change(drain=op.DrainFleet(fleet="tokyo")))

        kept = [record.request_id for record in journal.list()]
        assert kept == ["waits-0", "waits-1", "waits-2", "drain-17", "drain-18", "drain-19"]
        assert len(journal.pending()) == 3
        assert journal.settings() == {"gateway.admission.max_queued_groups": "8"}


@pytest.mark.parametrize(
    ("request_id", "change", "said"),
    [
        ("a b", op.Change(pause=op.Pause()), "request_id = 'a b'"),
        ("a", op.Change(), "names nothing"),
        ("a", op.Change(set=op.SetSettings()), "names no setting"),
        ("a", settings(model='"/m"'), "model cannot be changed"),
        ("a", settings(steps="1" * 70_000), "more than 65536"),
    ],
)
def test_a_request_that_cannot_be_is_not_written_down(config: QueueConfig, request_id: str, change: Any, said: str):
    with ChangeJournal(config) as journal:
        with pytest.raises(ChangeError, match=said):
            journal.request(request_id, "ann", change)
        assert journal.list() == []


def test_a_learner_that_is_superseded_settles_nothing(config: QueueConfig):
    queue = LearnerQueue.open(config)
    newer = LearnerQueue.open(config)
    with ChangeJournal(config, queue.epoch) as old, ChangeJournal(config, newer.epoch) as new:
        new.request("a", "ann", op.Change(pause=op.Pause()))
        with pytest.raises(FencedError):
            old.settle(1, APPLIED)
        assert new.paused() is False
        new.settle(1, APPLIED)
        assert new.paused() is True
    queue.close()
    newer.close()


def test_a_learner_gives_up_a_setting_of_a_newer_release(
    config: QueueConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    name = "optimizer.of_a_newer_release"
    queue, rows = LearnerQueue.open(config), []
    metrics = SimpleNamespace(event=lambda kind, **facts: rows.append((kind, facts["reason"])))
    lead = cast(RankZeroCallbacks, SimpleNamespace(queue=queue, metrics=metrics))
    learner: Any = SimpleNamespace(queue=config, publish=SimpleNamespace(dir=tmp_path))
    pending = PendingChanges(learner, lead)
    with ChangeJournal(config, queue.epoch) as journal:
        journal.request("finish", "ann", op.Change(finish=op.Finish()))
        journal.settle(1, APPLIED, new={name: "1"})
        journal.request("pause", "ann", op.Change(pause=op.Pause()))
        with monkeypatch.context() as patch:
            patch.setattr(module, "MOST_PENDING", 1)
            pending.give_up({name: "unknown"}, 1)  # too much waits: it stays, and the learner goes on
        assert (journal.settings(), rows) == ({name: "1"}, [])

        pending.give_up({name: "unknown"}, 1)

        last = journal.list()[-1]
        assert (journal.settings(), last.operator, list(last.change.unset.names)) == ({}, "learner", [name])
        assert rows == [("change", "it does not fit the run file any more: unknown")]
        with pytest.raises(ChangeError, match="cannot be changed"):
            journal.request("set", "ann", op.Change(set=op.SetSettings(values={name: "1"})))
    pending.close()
    queue.close()


def test_what_is_pinned_is_what_is_marked_on_disk_once_a_learner_has_looked(config: QueueConfig, tmp_path: Path):
    """`leeway policy pin` marks a version of a run in which no learner runs, and cannot tell the journal."""
    older, queue = LearnerQueue.open(config), LearnerQueue.open(config)
    lead = cast(RankZeroCallbacks, SimpleNamespace(queue=queue, metrics=SimpleNamespace(event=lambda *_, **__: None)))
    learner: Any = SimpleNamespace(queue=config, publish=SimpleNamespace(dir=tmp_path))
    (tmp_path / PINNED).mkdir()
    for version in (3, 12):
        (tmp_path / PINNED / f"{version:06d}").touch()
    with ChangeJournal(config, older.epoch) as old, ChangeJournal(config, queue.epoch) as journal:
        for number, version in ((1, 3), (2, 5)):  # a mark of version 5 has been taken away since
            journal.request(str(number), "ann", op.Change(pin=op.PinVersion(version=version)))
            journal.settle(number, APPLIED)
        with pytest.raises(FencedError):
            old.pin_exactly({7})
        assert journal.pinned() == {3, 5}

        pending = PendingChanges(learner, lead)
        pending.read()

        assert journal.pinned() == {3, 12}
        journal.request("3", "ann", op.Change(pin=op.PinVersion(version=7)))
        journal.settle(3, APPLIED)
        pending.read()  # later changes go through the journal, and are not undone
        assert journal.pinned() == {3, 7, 12}
        journal.pin_exactly(set())
        assert journal.pinned() == set()
    pending.close()
    queue.close()
    older.close()
