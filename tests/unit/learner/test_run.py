"""What a checkpoint says of its model, and that a resume with another one ends before anything is loaded."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from learner.checkpoint.fingerprint import FingerprintError
from learner.checkpoint.store import CheckpointState, ResumePoint
from learner.config import PublishConfig
from learner.intake.batch_source import TakenBatch
from learner.megatron.training.trainer import Trainer
from learner.queue import GroupRef
from learner.run import RankZeroCallbacks, Run, _checkpointed, _exporter, _resumed
from leeway.v1 import rollout_pb2 as pb


class Stateful:
    """Stands for an objective, a controller and a sharded state: says what it was given to load."""

    def __init__(self) -> None:
        self.loaded: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        return {"mine": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded.append(state)

    def load(self, directory: Path) -> None:
        self.loaded.append(directory)


def takeover(extra: dict[str, Any]) -> Any:
    resume = ResumePoint(Path("/c/step_00000007_e0001"), CheckpointState(7, 1, [], extra=extra))
    config = SimpleNamespace(model=Path("/models/m"), publish=SimpleNamespace(dir=Path("/weights")))
    return SimpleNamespace(resume=resume, rollback=None, config=config)


def test_what_is_evaluated_and_the_best_version_stay_on_disk():
    queue = SimpleNamespace(
        running_versions=lambda expire_after: {expire_after},
        evaluated_versions=lambda best: {20} if best == "sort:greedy:mean@1" else set(),
        fresh=None,
    )
    behaviour = SimpleNamespace(needed=lambda fresh: {30})
    parts: list[Any] = [queue, None, behaviour, None, None, 10]
    assert RankZeroCallbacks(*parts, best="sort:greedy:mean@1").in_use() == {10, 20, 30}
    assert RankZeroCallbacks(*parts).in_use() == {10, 30}


def test_a_step_that_nothing_can_be_trained_of_is_recorded_with_its_groups_and_said_to_be_skipped():
    """A row, the groups as trained, and an event; `tests/unit/learner/telemetry/test_run_metrics.py` counts the event."""
    refs = [GroupRef("f", str(number), "1-0") for number in range(64)]
    taken = TakenBatch([pb.Group()] * 64, refs, {}, ["f"] * 64, uncounted=64, ending="most")
    queue = SimpleNamespace(
        waiting=lambda: 5, expired=lambda: 0, unusable=0, consumed=40, wasted=lambda: {"expired": 7}, epoch=3
    )
    said: list[Any] = []
    metrics = SimpleNamespace(
        step=lambda row: said.append(row),
        trained=lambda step, epoch, trained: said.append((step, epoch, len(trained))),
        event=lambda kind, **values: said.append((kind, values)),
    )
    parts: list[Any] = [queue, metrics, None, None, None, 10]
    RankZeroCallbacks(*parts).report({"step": 9}, taken, None, [])
    row, trained, skipped = said
    assert (row["step"], row["consumed"], row["tokens_wasted"], row["queue_depth"]) == (9, 40, {"expired": 7}, 5)
    assert trained == (9, 3, 64)
    assert skipped == ("skipped", {"step": 9, "reason": "no group had a contrast, of 64"})


def test_a_checkpoint_gives_back_what_was_put_into_it():
    state, objective, rates = Stateful(), Stateful(), Stateful()
    extra = _checkpointed(3, cast(Any, objective), cast(Any, rates), 2, {"vocab_size": 96})
    resumed = _resumed(takeover(extra), cast(Any, state), cast(Any, objective), cast(Any, rates), {"vocab_size": 96})
    assert resumed == (7, 2)
    assert state.loaded == [Path("/c/step_00000007_e0001")]
    assert objective.loaded == rates.loaded == [{"mine": 1}]


def test_a_resume_with_another_model_is_refused_before_anything_is_loaded():
    state, objective, rates = Stateful(), Stateful(), Stateful()
    extra = _checkpointed(3, cast(Any, objective), cast(Any, rates), None, {"vocab_size": 96})
    with pytest.raises(FingerprintError, match="vocab_size is 100, the checkpoint's is 96"):
        _resumed(takeover(extra), cast(Any, state), cast(Any, objective), cast(Any, rates), {"vocab_size": 100})
    assert not state.loaded
    assert not objective.loaded


@pytest.mark.parametrize(
    ("step", "uncommitted", "told"),
    [(10, 0, True), (9, 0, False), (10, 3, False)],  # all steps made; stopped before; the last checkpoint failed
)
def test_fleets_are_told_that_the_run_has_finished_only_when_all_its_steps_are_durable(
    step: int, uncommitted: int, told: bool
):
    calls: list[str] = []

    def named(name: str) -> Any:
        return lambda *_: calls.append(name)

    def part(**values: Any) -> Any:
        return SimpleNamespace(**values)

    queue = part(report=named("report"), end=named("end"))
    run = part(
        step=0,
        config=part(steps=10, checkpoint=part(every=1)),
        rank_metrics=part(health=part(closing=named("closing"))),
        prefetch=part(close=named("prefetch")),
        checkpointer=part(finish=named("finish"), uncommitted=uncommitted, saved_step=step),
        publisher=part(wait=named("published"), version=4),
        watchdog=part(stop=named("watchdog"), alive=lambda: None),
        stop=part(left_s=lambda: 1.0),
        lead=part(queue=queue, close=named("closed")),
        tracing=part(close=named("traced")),
        waiting=lambda _: contextlib.nullcontext(),
    )
    Run.close(cast(Any, run), step)
    assert ("end" in calls) == told
    assert calls.index("finish") < calls.index("report") < calls.index("closed")
    if told:
        assert calls.index("report") < calls.index("end") < calls.index("closed")


class Copy:
    """Stands for the copy of an export: counts its users."""

    users = 1

    def hold(self) -> Copy:
        self.users += 1
        return self


@pytest.mark.parametrize("caches", [True, False])
def test_a_published_version_and_the_cached_one_are_one_copy(caches: bool):
    asked: list[bool] = []
    cached: list[tuple[int, Any]] = []
    export = SimpleNamespace(weights=Copy())
    run = SimpleNamespace(
        exporter=SimpleNamespace(begin=lambda whole: asked.append(whole) or export),
        behaviour=SimpleNamespace(caches=caches, cache=lambda version, weights: cached.append((version, weights))),
    )
    assert Run._export(cast(Run, run), 7) is export
    assert asked == [caches]
    assert cached == ([(7, export.weights)] if caches else [])
    assert export.weights.users == 1 + caches


def test_the_optimizer_waits_for_the_copy_of_a_version_before_it_steps():
    """A stand-in for a copy that a GPU has under way. No GPU has run this."""
    parameter = torch.nn.Parameter(torch.ones(2))
    adam = torch.optim.AdamW([parameter])
    trainer = Trainer.__new__(Trainer)
    trainer.optimizer = cast(Any, SimpleNamespace(chained_optimizers=[SimpleNamespace(optimizer=adam)]))
    trainer._before_update = []
    trainer._watch_optimizer()
    ranks = SimpleNamespace(tensor_size=1, tensor_rank=0, replicas=1, replica_rank=0, device=torch.device("cpu"))
    policy = SimpleNamespace(models=[], architecture=None, lora=None)
    exporter = _exporter(
        cast(Any, policy), trainer, cast(Any, ranks), PublishConfig(dir=Path("unused"), dtype="float32"), None
    )
    seen: list[list[float]] = []
    parameter.grad = torch.ones(2)
    adam.step()  # there is no copy yet
    before = parameter.tolist()
    exporter._copies._last = cast(Any, SimpleNamespace(protect=lambda: seen.append(parameter.tolist())))
    adam.step()
    assert seen == [before]
    assert parameter.tolist() != before
