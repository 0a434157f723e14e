"""Five hosts over mTLS with a fleet's link cut: a shorter `python -m tests.deploy.hosts` with scripted engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy import network
from tests.deploy.hosts import FLEETS, Show, perform
from tests.deploy.site import refusal
from tests.tools.refuse import refuse

pytestmark = pytest.mark.timeout(600)
SMALL = ("learner.parallel.tensor=1", "learner.parallel.pipeline=1", "learner.checkpoint.every=10")


@pytest.fixture(scope="module", autouse=True)
def permitted() -> None:
    if reason := refusal() or network.refusal():
        refuse(reason)


def test_a_cut_link_heals_with_the_ledger_balanced_and_tls_alone_on_it(tmp_path: Path):
    result = perform(tmp_path / "site", Show(10.0, sglang=0, steps=5, settings=SMALL, warm=False))
    print("\n".join(result.lines))
    assert (result.lost, result.doubled, result.imbalances) == ([], [], [])
    cut, other = FLEETS
    # Nothing came through, nothing was generated beyond what had been promised, and nobody else noticed.
    assert result.during[cut] == 0
    assert result.during["generated"] <= 32
    assert result.during[other] > 0
    assert result.during["steps"] > 0
    ledgers = {ledger["fleet"]: ledger for ledger in result.ledgers}
    for fleet in FLEETS:
        acked = sum(fleet == name for name, _ in result.account.acked)
        assert 0 < acked <= ledgers[fleet]["accepted"]
    assert (result.wire, result.leaked) == ([], [])
    groups = sum(cut == name for name, _ in result.account.acked)
    assert sum(len(stream.data) for stream in result.streams) > 100 * groups  # they did travel there
