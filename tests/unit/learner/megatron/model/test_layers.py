"""The modules that layers are built of, by configuration and by what the machine has."""

from __future__ import annotations

import pytest

from learner.config import LearnerConfig
from learner.megatron.model import layers
from learner.megatron.model.architecture import ModelError
from learner.megatron.model.layers import OWN, TRANSFORMER_ENGINE, select_backend


def configured(**changes: object) -> LearnerConfig:
    given = {"model": "m", "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused"}
    return LearnerConfig.parse(
        given | {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}} | changes, source="test"
    )


@pytest.fixture
def machine(monkeypatch):
    def has(cuda: bool, package: bool) -> None:
        monkeypatch.setattr(layers.torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(layers.importlib.util, "find_spec", lambda name: object() if package else None)

    return has


@pytest.mark.parametrize(
    ("wanted", "dtype", "cuda", "package", "backend"),
    [
        ("auto", "bfloat16", True, True, TRANSFORMER_ENGINE),
        ("auto", "float32", True, True, OWN),
        ("auto", "bfloat16", False, True, OWN),
        ("auto", "bfloat16", True, False, OWN),
        ("own", "bfloat16", True, True, OWN),
        ("transformer_engine", "float32", True, True, TRANSFORMER_ENGINE),
    ],
)
def test_the_backend_follows_the_machine_unless_told_otherwise(machine, wanted, dtype, cuda, package, backend):
    machine(cuda, package)
    assert select_backend(configured(layers=wanted, dtype=dtype)) is backend


@pytest.mark.parametrize(
    ("cuda", "package", "lacking"),
    [
        (False, False, "a CUDA device and the package transformer_engine"),
        (False, True, "a CUDA device"),
        (True, False, "the package transformer_engine"),
    ],
)
def test_what_cannot_run_is_refused_by_name(machine, cuda, package, lacking):
    machine(cuda, package)
    with pytest.raises(
        ModelError, match=f'^layers = "transformer_engine" needs {lacking}, which this machine lacks: set'
    ):
        select_backend(configured(layers="transformer_engine"))
