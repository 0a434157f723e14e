"""What the queue knows of versions, read from outside."""

from __future__ import annotations

from learner.queue.versions_in_use import read_versions_in_use
from tests.service.queueing import begun, lease, wish


async def test_what_was_announced_and_who_runs_it(config, gateway_queue, open_learner):
    begun(open_learner, versions=(0, 1, 2))
    await lease(gateway_queue, wish("a", 1, worker="w0", running_version=2), bound=10)
    await lease(gateway_queue, wish("b", 1, "beta", worker="w0", running_version=1), bound=10)
    await lease(gateway_queue, wish("c", 1, worker="w1", running_version=2), bound=10)
    await lease(gateway_queue, wish("d", 0, worker="w2", fetching_version=2), bound=10)  # runs nothing yet
    found = read_versions_in_use(config)
    assert found.registered == {0, 1, 2}
    assert found.running == {1: ["beta/w0"], 2: ["alpha/w0", "alpha/w1"]}
