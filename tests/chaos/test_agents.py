"""Proves with real SGLang that kills of a worker and of what its agents need leave no half group and no process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.agent_stack import KINDS, AgentStack
from tests.chaos.agents import AgentCampaign

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[AgentStack]:
    stack = AgentStack(tmp_path / "stack", episodes=16)
    yield stack
    stack.close()


def test_a_kill_of_each_kind_leaves_whole_groups_and_no_process(stack: AgentStack):
    stack.until(lambda: stack.serving_engines() == 2, "engines")
    stack.use_engines(1)  # after its kill, which is the last: starts of servers are most of this test's time
    outcome = AgentCampaign(stack, KINDS, seed=1).run()
    assert outcome.kills == dict.fromkeys(KINDS, 1)
    assert (outcome.survivors, outcome.wrong) == ([], [])
    assert outcome.totals["episodes/unscored"] >= 1  # the one whose agent was killed
    assert stack.worker.deaths == [-9]
    assert outcome.totals["tokens_received"] >= outcome.needed > 0
