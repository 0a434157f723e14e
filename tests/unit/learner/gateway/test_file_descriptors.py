"""The limit of open files is raised, and connections leave some of it for everything else."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from learner.gateway.file_descriptors import connections_possible


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """Returns the process's limits, and restores them after the test."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_to_the_hard_one(limits: tuple[int, int]):
    _, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    possible = connections_possible()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert possible == max(64, hard - 256)


@pytest.mark.parametrize(("hard", "possible"), [(100, 64), (4096, 3840), (resource.RLIM_INFINITY, 2**31 - 1)])
def test_some_descriptors_are_kept_for_everything_else(monkeypatch: pytest.MonkeyPatch, hard: int, possible: int):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert connections_possible() == possible
