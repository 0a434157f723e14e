"""Tests of the agent that asks what its ranks have ended with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed.elastic.agent.server.api import RunResult, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.launcher import api

from learner.megatron.patches import node_agent
from learner.megatron.patches.node_agent import NodeAgent


@pytest.fixture
def agent(monkeypatch):
    """An agent with three restarts left, and none of torchrun's machinery."""
    monkeypatch.setattr(api, "LocalElasticAgent", LocalElasticAgent)
    node_agent.use(final=(2, 3), asked=(4,))
    made = object.__new__(NodeAgent)
    made._remaining_restarts = 3
    return made


@pytest.mark.parametrize(
    ("statuses", "restarts", "left"),
    [
        ([1], 3, 3),
        ([-9, -15], 3, 3),
        ([2, -15], 3, 0),
        ([1, 3], 3, 0),
        ([4, 4], 3, 4),
        ([4, 2], 3, 0),
        ([4], 0, 3),
    ],
)
def test_restarts_that_are_left_depend_on_what_ranks_end_with(agent, monkeypatch, statuses, restarts, left):
    failures: Any = {rank: SimpleNamespace(exitcode=status) for rank, status in enumerate(statuses)}
    result = RunResult(state=WorkerState.FAILED, failures=failures)
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self, worker_group: result)
    group = SimpleNamespace(spec=SimpleNamespace(max_restarts=restarts))
    assert agent._monitor_workers(group) is result
    assert agent._remaining_restarts == left


def test_healthy_ranks_change_nothing(agent, monkeypatch):
    result = RunResult(state=WorkerState.HEALTHY)
    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", lambda self, worker_group: result)
    assert agent._monitor_workers(None) is result
    assert agent._remaining_restarts == 3


def test_torchrun_makes_this_agent(agent):
    assert vars(api)["LocalElasticAgent"] is NodeAgent


def test_a_torchrun_that_makes_another_is_refused(monkeypatch):
    monkeypatch.delattr(api, "LocalElasticAgent")
    with pytest.raises(LookupError, match="port this patch"):
        node_agent.use(final=(), asked=())
