"""A learner over two nodes, of which one is killed and replaced: a shorter `python -m tests.deploy.nodes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import network
from tests.deploy.nodes import Show, perform
from tests.deploy.site import refusal
from tests.tools.refuse import refuse

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def permitted() -> None:
    if reason := refusal() or network.refusal():
        refuse(reason)


def test_a_node_is_replaced_by_one_of_another_address(tmp_path: Path):
    result = perform(tmp_path / "site", Show(steps=6, alone=False))
    print("\n".join(result.lines))
    assert result.faults == []
    first, second = result.starts
    assert (first["resumed_epoch"], second["resumed_epoch"]) == (None, first["epoch"])
    assert second["epoch"] > first["epoch"]
    assert second["resumed_step"] > 0
    assert {epoch for epoch, _, _ in result.steps} == {first["epoch"], second["epoch"]}
    assert len(result.account.trained) == 8 * len(result.steps)
