"""When a server counts as dead: only when it fails to answer several times in a row, and not while it loads weights."""

import asyncio
from typing import Any

import pytest

from rollout.engine import health_check
from rollout.engine.errors import EngineError
from rollout.engine.health_check import HealthCheck


class Server:
    """An engine whose health is scripted: True for each probe that is answered; the last one goes on."""

    url = "http://server"

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.probes = 0

    async def require_health(self, _: float) -> None:
        self.probes += 1
        if not (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]):
            raise EngineError("no")
        await asyncio.sleep(0)


def watch(server: Any, check: HealthCheck) -> asyncio.Task[None]:
    return asyncio.create_task(check.watch(server))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "_EVERY_S", 3600.0)
    monkeypatch.setattr(health_check, "_FIRST_PAUSE_S", 0.001)


async def test_a_server_that_misses_two_probes_lives():
    cleared = asyncio.Event()
    server, check = Server(False, False, True), HealthCheck(cleared.set)
    task = watch(server, check)
    check.doubt()
    assert check.suspect
    await asyncio.wait_for(cleared.wait(), 60)
    assert (check.suspect, server.probes, task.done()) == (False, 3, False)
    task.cancel()


async def test_a_server_that_misses_three_probes_is_dead():
    server, check = Server(False), HealthCheck(lambda: None)
    check.doubt()
    with pytest.raises(EngineError):
        await asyncio.wait_for(watch(server, check), 60)
    assert server.probes == 3
    assert check.suspect


async def test_a_server_that_loads_weights_may_be_silent():
    cleared = asyncio.Event()
    server, check = Server(*[False] * 9, True), HealthCheck(cleared.set)
    check.doubt()
    with check.paused():
        task = watch(server, check)
        await asyncio.wait_for(cleared.wait(), 60)
    assert server.probes == 10
    task.cancel()
