"""Tests of one host as a process; what it answers is tested with the pools that use it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from rollout.environments.host_process import HostProcess, HostSettings
from rollout.environments.task_spec import TaskSpec


async def test_kill_waits_for_a_host_that_has_ended_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reaped, wait = asyncio.Event(), asyncio.subprocess.Process.wait

    async def late(process: asyncio.subprocess.Process) -> int:
        await reaped.wait()
        return await wait(process)

    monkeypatch.setattr(asyncio.subprocess.Process, "wait", late)
    host = HostProcess(HostSettings(TaskSpec("sort"), load=False, python=Path(sys.executable)), tmp_path / "host.log")
    await host.described()
    assert host.pid is not None
    os.killpg(host.pid, signal.SIGKILL)
    while host.pid is not None:  # noqa: ASYNC110 - a host says to nobody that it has ended
        await asyncio.sleep(0.01)
    killing = asyncio.create_task(host.kill("the worker ends"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not killing.done()  # whoever closes the event loop now would leave a process that nobody waits for
    reaped.set()
    await killing
