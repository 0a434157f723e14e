"""The command from anywhere: processes in an empty directory that have nothing but a gateway's address and a token."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis
from learner.queue.change_journal import ChangeJournal
from leeway.v1 import operator_pb2 as op
from tests.service.fleet import RUN, GatewayProcess, valid_group, write_identities
from tests.service.servers import wait_for
from tests.tools.runs import REPOSITORY

TOKEN = "operator-secret"
Start = Callable[..., Awaitable[GatewayProcess]]


@pytest.fixture
async def leeway(start_gateway: Start, tmp_path: Path) -> Callable[..., Any]:
    """Starts the command in an empty directory, for a real gateway that has one group queued and one in quarantine."""
    gateway = await start_gateway(quarantine_groups=10)
    known = {
        "alpha": {"tokens": [hashlib.sha256(b"alpha-secret").hexdigest()]},
        "ann": {"tokens": [hashlib.sha256(TOKEN.encode()).hexdigest()], "roles": ["operate"]},
    }
    write_identities(gateway.identities_file, known)
    async with gateway.connect() as fleet:
        await fleet.submit([valid_group(), valid_group(temperature=-1.0)])
    away = tmp_path / "away"
    away.mkdir()
    (tmp_path / "operator.token").write_text(TOKEN)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LEEWAY_")},
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'proto'}",
        "LEEWAY_GATEWAY": gateway.address,
        "LEEWAY_TOKEN_FILE": str(tmp_path / "operator.token"),
        "COLUMNS": "200",
    }

    async def call(*arguments: object, status: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "learner.cli.app", *map(str, arguments)]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=away, env={**environment, **more}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        assert not list(away.iterdir())
        return done

    return call


async def test_an_operator_needs_nothing_but_an_address_and_a_token(
    leeway: Callable[..., Any], redis_server: EmbeddedRedis, tmp_path: Path
):
    ledger, kept, versions, groups = await asyncio.gather(
        leeway("ledger", "--check", "--recount", "--json"),
        leeway("quarantine", "list"),
        leeway("policy", "list"),
        leeway("rollouts", "waiting"),
    )
    (account,) = json.loads(ledger.stdout)["ledgers"]
    assert (account["fleet"], account["queued"], account["rejected"]) == ("alpha", 1, 1)
    assert "temperature" in kept.stdout
    assert "newest" in versions.stdout
    assert "sort" in groups.stdout
    # A fleet that is added can call at once; one of the gateway's file is changed there.
    token = (await leeway("fleet", "add", "tokyo")).stdout.strip()
    refused = await leeway("fleet", "revoke", "alpha", status=1)
    assert "kubectl patch secret leeway-identities" in refused.stderr
    # Gateways apply quotas and drained fleets at once; what the learner must do waits for it.
    await leeway("ctl", "set", "quotas.tokyo.groups_per_s=3")
    await leeway("fleet", "drain", "tokyo")
    refused = await leeway("ctl", "set", "lr=-1", "--no-wait", status=3)
    assert "pending" in refused.stdout
    wrong = await leeway("ctl", "set", "objective.name=grpo", status=2)
    assert wrong.stderr.startswith("error: objective.name cannot be changed while the run goes on")
    waiting = asyncio.create_task(leeway("ctl", "pause"))
    config = QueueConfig(url=redis_server.url, run=RUN, timeout_s=2.0)
    await asyncio.to_thread(play_the_learner, config)
    assert "applied before step 7" in (await waiting).stdout
    status, log, fleets = await asyncio.gather(
        leeway("status"), leeway("ctl", "log", "--json"), leeway("fleet", "list")
    )
    for words in ("gateway.admission.quotas.tokyo.groups_per_s=3", "drained fleets", "paused", "ledger of alpha"):
        assert words in status.stdout
    rows = json.loads(log.stdout)
    assert [(row["kind"], row["state"], row["operator"]) for row in rows] == [
        ("set", "applied", "ann"),
        ("drain", "applied", "ann"),
        ("set", "refused", "ann"),
        ("pause", "applied", "ann"),
    ]
    assert any(line.split()[:2] == ["tokyo", "submit"] and "drained" in line for line in fleets.stdout.splitlines())
    # A fleet's own token operates nothing.
    (tmp_path / "fleet.token").write_text(token)
    denied = await leeway("status", status=2, LEEWAY_TOKEN_FILE=str(tmp_path / "fleet.token"))
    assert "needs the role operate" in denied.stderr


def play_the_learner(config: QueueConfig) -> None:
    """Refuses the learning rate, and applies the pause when it comes."""
    with ChangeJournal(config) as journal:

        def settle_all() -> bool:
            found = {record.number: record.change.WhichOneof("kind") for record in journal.pending()}
            for number, kind in found.items():
                state = op.CHANGE_STATE_APPLIED if kind == "pause" else op.CHANGE_STATE_REFUSED
                journal.settle(number, state, "", 7)
            return "pause" in found.values()

        wait_for(settle_all, journal.list)
