"""What CUDA and torch's allocator find in the environment."""

from __future__ import annotations

import os

import pytest

from learner.process.cuda_environment import prepare

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_DEVICE_MAX_CONNECTIONS")


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def found() -> list[str | None]:
    return [os.environ.get(name) for name in NAMES]


@pytest.mark.parametrize(("tensor", "connections"), [(1, None), (2, "1")])
def test_memory_grows_in_place_and_collectives_keep_their_order(tensor: int, connections: str | None):
    prepare(tensor)
    assert found() == ["expandable_segments:True", None, connections]


def test_what_the_operator_has_set_stays(monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:512")
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "8")
    prepare(2)
    assert found() == [None, "max_split_size_mb:512", "8"]
