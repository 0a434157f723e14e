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
from learner.megatron.training.trainer import Trainer
from learner.run import Run, _checkpointed, _exporter, _resumed


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
        config=part(steps=10, checkpoint=part(every=1)),
        rank_metrics=part(health=part(closing=named("closing"))),
        prefetch=part(close=named("prefetch")),
        checkpointer=part(finish=named("finish"), uncommitted=uncommitted),
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
    ranks = SimpleNamespace(tensor_size=1, tensor_rank=0, replicas=1, replica_rank=0, device=torch.device("cpu"))
    policy = SimpleNamespace(models=[], architecture=None)
    exporter = _exporter(cast(Any, policy), trainer, cast(Any, ranks), "float32")
    seen: list[list[float]] = []
    parameter.grad = torch.ones(2)
    adam.step()  # there is no copy yet
    before = parameter.tolist()
    exporter._copies._last = cast(Any, SimpleNamespace(protect=lambda: seen.append(parameter.tolist())))
    adam.step()
    assert seen == [before]
    assert parameter.tolist() != before
