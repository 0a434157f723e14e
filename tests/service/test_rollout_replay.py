"""`leeway replay` against a real gateway: recorded groups are taken once under their ids, and again as new ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rollout.client import AuthError, SubmitClient
from rollout.client.replay import replay
from tests.service.fleet import TOKENS, GatewayProcess
from tests.tools.recorded import group, response, write_records

NOW = time.time()  # a gateway refuses groups that were created before the year 2000


async def test_recorded_groups_are_submitted_by_a_fleet(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], tmp_path: Path
):
    gateway = await start_gateway()
    good = write_records(tmp_path / "good", [group(NOW) for _ in range(3)])
    async with SubmitClient(gateway.address, TOKENS["alpha"]) as client:
        results = [await replay(client, good, new_ids, 60.0) for new_ids in (False, False, True)]
    assert [dict(result.acks) for result in results] == [{"accepted": 3}, {"duplicate": 3}, {"accepted": 3}]
    async with SubmitClient(gateway.address, "somebody else's") as client:
        with pytest.RaisesGroup(AuthError):
            await replay(client, write_records(tmp_path / "one", [group(NOW)]), False, 60.0)

    unknown = group(NOW, [response("12", version=7), response("34", 0.0, version=7)])
    masked = group(NOW).model_copy(update={"prompt_tokens": None, "masked": 1})
    mixed = write_records(tmp_path / "mixed", [group(NOW), unknown, masked])
    token = tmp_path / "token"
    token.write_text(TOKENS["alpha"])
    words = ["replay", mixed, "--gateway", gateway.address, "--token-file", token, "--new-ids", "--timeout", 60]
    command = [sys.executable, "-m", "learner.cli.app", *map(str, words)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "1 accepted"
    assert lines[1].startswith("1 rejected: unknown_version, such as ")
    assert lines[2] == "1 not submitted"
    assert "left out (masked)" in lines[3]
    assert "2 of 3 groups were not taken" in done.stderr
    async with gateway.connect() as fleet:
        ledger = await fleet.ledger()
    assert (ledger.received, ledger.accepted, ledger.duplicate, ledger.rejected) == (11, 7, 3, 1)
