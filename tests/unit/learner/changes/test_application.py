"""What the learner does with changes when it begins, and how it begins a backup that an operator asks for."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner.backup.errors import BackupError
from learner.changes import application
from learner.changes import start as start_module
from learner.changes.application import Changes
from learner.changes.start import Start
from learner.config import LearnerConfig
from learner.config.changeable import ChangeError
from learner.megatron.parallel import Ranks
from learner.queue.change_journal import InForce
from learner.run import Run
from leeway.v1 import operator_pb2 as op

CONFIG = LearnerConfig.parse(
    {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "checkpoint": {"dir": "c"},
        "publish": {"dir": "p"}, "metrics_dir": "d",
    },
    source="test",
)  # fmt: skip


@pytest.mark.parametrize(("keep", "kept"), [(3, 3), (0, None)])
def test_a_backup_keeps_as_many_as_the_operator_wants(monkeypatch: pytest.MonkeyPatch, keep: int, kept: int | None):
    asked: list[Any] = []

    def back_up(config: LearnerConfig, uri: str, keep: int | None, final: bool) -> Future[Any]:
        asked.append((config, uri, keep))
        return Future()

    monkeypatch.setattr(application, "back_up", back_up)
    application.begun_backup(CONFIG, op.BackUp(uri="file:///b", keep=keep))
    assert asked == [(CONFIG, "file:///b", kept)]


def test_a_backup_that_cannot_be_begun_is_a_change_that_is_refused(tmp_path: Path):
    with pytest.raises(ChangeError, match="uri = nowhere://x: "):
        application.begun_backup(CONFIG, op.BackUp(uri="nowhere://x"))
    with pytest.raises(BackupError):
        application.back_up(CONFIG, "nowhere://x")


class FakeRun:
    """A run as a rank that is not rank 0 has it; ``waiting`` are the changes that rank 0 reads."""

    lead = None

    def __init__(self, config: LearnerConfig, waiting: list[op.RecordedChange]) -> None:
        self.config = config
        self.pauses: list[bool] = []
        content = op.ListChangesResponse(changes=waiting).SerializeToString()
        self.ranks = SimpleNamespace(
            rank=1,
            run_on_rank_zero=lambda work: work(),
            broadcast_bytes=lambda data: data or content,
            any=lambda stop: True,
        )
        self.prefetch = SimpleNamespace(pause=self.pauses.append)
        self.rank_metrics = SimpleNamespace(health=SimpleNamespace(paused=False))
        self.stop = SimpleNamespace(requested=lambda: True)

    def configure(self, config: LearnerConfig) -> None:
        self.config = config


def begun(
    monkeypatch: pytest.MonkeyPatch, before: InForce, now: InForce, waiting: list[op.RecordedChange]
) -> tuple[FakeRun, Changes]:
    """Begins with ``now`` in force, where ``before`` was in force when the run was opened."""
    found = iter([before, now])
    monkeypatch.setattr(start_module, "read_patiently", lambda queue: next(found))
    run = FakeRun(CONFIG, waiting)
    start = Start.read(CONFIG, cast(Ranks, run.ranks))
    run.config = start.config
    changes = Changes(cast(Run, run), start)
    changes.begin(0)
    return run, changes


def test_what_the_learner_before_applied_while_this_one_opened_is_in_force(monkeypatch: pytest.MonkeyPatch):
    nobody: frozenset[Any] = frozenset()
    before = InForce({"optimizer.weight_decay": "0.5"}, nobody, nobody, False)

    run, changes = begun(monkeypatch, before, InForce({"optimizer.lr": "1e-5"}, nobody, nobody, True), [])

    assert (run.config.optimizer.lr, run.config.optimizer.weight_decay) == (1e-5, CONFIG.optimizer.weight_decay)
    assert (run.pauses, run.rank_metrics.health.paused, changes.stops) == ([True], True, True)


def test_a_setting_of_a_newer_release_that_is_given_up_may_be_given_back_by_an_operator_too(
    monkeypatch: pytest.MonkeyPatch,
):
    nobody: frozenset[Any] = frozenset()
    in_force = InForce({"optimizer.new": "1", "optimizer.lr": "1e-5"}, nobody, nobody, False)
    both = op.Change(unset=op.UnsetSettings(names=["optimizer.new", "optimizer.lr"]))

    run, _ = begun(monkeypatch, in_force, in_force, [op.RecordedChange(number=1, change=both)])

    assert run.config == CONFIG


class FakePending:
    """Two backups that wait, and what became of them."""

    first_look = False

    def __init__(self, final: bool = False) -> None:
        wanted = op.Change(backup=op.BackUp(uri="file:///b", final=final))
        self.waiting = [op.RecordedChange(number=number, change=wanted) for number in (1, 2)]
        self.settled: dict[int, tuple[str, bool]] = {}

    def read(self) -> list[op.RecordedChange]:
        return self.waiting

    def settle(self, record: op.RecordedChange, settled: Any) -> None:
        self.settled[record.number] = (settled.reason, settled.refused)

    def close(self) -> None:
        """Closes nothing."""


def test_a_backup_that_is_done_is_not_recorded_as_cut_short(monkeypatch: pytest.MonkeyPatch):
    pending, backups = FakePending(), [Future[Any](), Future[Any]()]
    begun = iter(backups)
    monkeypatch.setattr(application, "PendingChanges", lambda *_: pending)
    monkeypatch.setattr(application, "back_up", lambda *_: next(begun))
    run: Any = SimpleNamespace(lead=True, config=CONFIG, ranks=SimpleNamespace(broadcast_bytes=lambda content: content))
    start: Any = SimpleNamespace(base=CONFIG, in_force={})
    changes = application.Changes(run, start)
    changes.apply(CONFIG.steps)
    assert pending.settled == {}
    backups[0].set_result(SimpleNamespace(describe=lambda: "file:///b/backup-1: step 1"))
    changes.close(finished=False)
    assert pending.settled[1] == ("file:///b/backup-1: step 1", False)
    reason, refused = pending.settled[2]
    assert refused
    assert "has ended before the backup was complete" in reason


def test_a_move_that_was_asked_of_the_learner_before_is_not_made_by_the_next_one(monkeypatch: pytest.MonkeyPatch):
    """Its process was killed meanwhile, and an operator may have taken the move back."""
    pending, begun = FakePending(final=True), list[str]()
    pending.waiting[1].change.backup.final = False
    pending.first_look = True
    monkeypatch.setattr(application, "PendingChanges", lambda *_: pending)
    monkeypatch.setattr(application, "back_up", lambda config, uri, keep, final: begun.append(final) or Future())
    run: Any = SimpleNamespace(lead=True, config=CONFIG, ranks=SimpleNamespace(broadcast_bytes=lambda content: content))
    changes = application.Changes(run, cast(Start, SimpleNamespace(base=CONFIG, in_force={})))
    changes._paused = True
    changes.apply(CONFIG.steps)
    assert begun == [False]
    reason, refused = pending.settled.pop(1)
    assert (refused, "the learner has started since it was asked" in reason) == (True, True)
    assert not pending.settled


def test_whoever_asks_through_a_gateway_hears_that_the_run_has_moved(monkeypatch: pytest.MonkeyPatch):
    pending, backup = FakePending(), Future[Any]()
    monkeypatch.setattr(application, "PendingChanges", lambda *_: pending)
    run: Any = SimpleNamespace(lead=True, config=CONFIG)
    changes = application.Changes(run, cast(Start, SimpleNamespace(base=CONFIG, in_force={})))
    record = op.RecordedChange(number=1, change=op.Change(backup=op.BackUp(uri="file:///b", final=True)))
    changes._backups[1] = record, backup
    backup.set_result(SimpleNamespace(describe=lambda: "file:///b/backup-1: step 1"))
    assert changes._is_being_made(record)
    assert pending.settled[1] == ("file:///b/backup-1: step 1; the run has moved, and does not go on here", False)


class MovingRun(FakeRun):
    """A run of one rank, whose checkpoint is durable and leaves ``uncommitted`` groups."""

    lead: Any = SimpleNamespace()

    def __init__(self, uncommitted: int) -> None:
        super().__init__(CONFIG, [])
        self.saved: list[int] = []
        self.checkpointer = SimpleNamespace(
            finish=lambda: None, save=self.saved.append, uncommitted=uncommitted, fence=SimpleNamespace(root=Path("x"))
        )
        self.ranks.agree = lambda values: values
        self.waiting = lambda what: nullcontext()
        self.short_waits = nullcontext
        self.report_progress = lambda step: None


@pytest.mark.parametrize(
    ("paused", "uncommitted", "refused"),
    [(False, 0, "pause it first"), (True, 3, "3 trained groups could not be committed"), (True, 0, "")],
)
def test_a_run_moves_only_when_nothing_is_trained_that_is_not_in_the_backup(
    monkeypatch: pytest.MonkeyPatch, paused: bool, uncommitted: int, refused: str
):
    pending, asked, durable = FakePending(), list[bool](), iter([False, True])
    wanted = op.Change(backup=op.BackUp(uri="file:///b", final=True))
    pending.waiting = [op.RecordedChange(number=1, change=wanted)]

    def back_up(config: LearnerConfig, uri: str, keep: int | None, final: bool) -> Future[Any]:
        asked.append(final)
        return Future()

    monkeypatch.setattr(application, "PendingChanges", lambda *_: pending)
    monkeypatch.setattr(application, "back_up", back_up)
    monkeypatch.setattr(Changes, "_is_durable", lambda self, step: next(durable))
    run: Any = MovingRun(uncommitted)
    run.ranks.broadcast_bytes = lambda content: content
    changes = Changes(run, cast(Start, SimpleNamespace(base=CONFIG, in_force={})))
    changes._paused = paused
    changes.apply(CONFIG.steps)
    assert run.saved == ([CONFIG.steps] if paused else [])
    assert asked == ([] if refused else [True])
    assert [refused in reason for reason, _ in pending.settled.values()] == ([True] if refused else [])
