"""What a checkpoint says of its model, and that a resume with another one ends before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from learner.checkpoint.fingerprint import FingerprintError
from learner.checkpoint.store import CheckpointState, ResumePoint
from learner.run import _checkpointed, _resumed


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
