"""`leeway ledger` on a run's own data, with --recount and --watch."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from learner.checkpoint import store
from learner.cli.app import app
from learner.cli.run.run_directory import RunDirectory
from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, GatewayQueue, GroupRef, LearnerQueue
from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group
from tests.service.queueing import client, feed
from tests.tools.runs import make_run


def leeway(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[RunDirectory, QueueConfig, list[GroupRef]]]:
    """Makes a run with its Redis running, where fleet alpha has 3 groups trained, 1 expired, 2 in flight, 1 queued."""
    run = make_run(tmp_path / "run").directory
    server = EmbeddedRedis.start(run.redis)
    config = QueueConfig(url=server.url, run=run.identity("demo"))
    learner = LearnerQueue.open(config)
    learner.begin(0, [])
    learner.publish(pb.Policy(version=0, step=0, epoch=1))
    learner.publish(pb.Policy(version=5, step=5, epoch=1))

    async def submit() -> None:
        queue = GatewayQueue(config, 0)
        await queue.check()
        await feed(queue, [valid_group(0), *(valid_group(5) for _ in range(6))])
        await queue.close()

    asyncio.run(submit())
    refs = [one.ref for one in learner.take(5, 5, 2)]
    learner.commit(6, refs[:3])
    learner.close()
    yield run, config, refs
    server.stop()


def test_ledgers_and_recount(served: tuple[RunDirectory, QueueConfig, list[GroupRef]]):
    run, config, _ = served
    result = leeway("ledger", run.root, "--check", "--recount")
    assert result.exit_code == 0, result.output
    assert "the ledger balances for 1 fleet" in result.output
    assert "recounted: 3 groups in the queue" in result.output
    assert "ids remembered: 1 expired, 3 queued, 3 trained" in result.output
    result = leeway("ledger", run.root, "--json", "--recount")
    content = json.loads(result.output)
    (account,) = content["ledgers"]
    assert (account["trained"], account["expired"], account["in_flight"], account["queued"]) == (3, 1, 2, 1)
    assert {bucket["outcome"]: bucket["count"] for bucket in account["histogram"] if bucket["measure"] == "reward"} == {
        "expired": 1,
        "trained": 3,
    }
    assert content["recount"]["discrepancies"] == []
    # A fault is found, and so is a checkpoint that contradicts the queue.
    with client(config) as raw:
        raw.hincrby(Keys(config.run).ledger("alpha"), "trained", 1)
    result = leeway("ledger", run.root, "--recount")
    assert result.exit_code == 1
    equation = "accepted - trained - expired - quarantined - lost = 2, but 3 are in the stream"
    assert f"discrepancy: fleet 'alpha': {equation}" in result.output
    result = leeway("ledger", run.root, "--check")
    assert result.exit_code == 1
    assert result.stderr.startswith("the ledger does not balance: fleet 'alpha': accepted 7 != trained 4 + expired 1")
    assert "(difference -1)" in result.stderr


def test_the_newest_checkpoint_is_compared_with_the_queue(
    served: tuple[RunDirectory, QueueConfig, list[GroupRef]], monkeypatch: pytest.MonkeyPatch
):
    run, config, refs = served
    (run.checkpoints / store.name(6, 1)).mkdir(parents=True)
    state = store.CheckpointState(step=6, epoch=1, trained=refs[:3])
    monkeypatch.setattr(store, "read_state", lambda _: state)
    assert leeway("ledger", run.root, "--recount").exit_code == 0
    with client(config) as raw:
        raw.hset(Keys(config.run).ids("alpha", refs[0].group_id), refs[0].group_id, "expired:6")
    result = leeway("ledger", run.root, "--recount")
    assert result.exit_code == 1
    assert "is in the newest checkpoint, but was counted as expired" in result.output


def test_watching_ends_with_ctrl_c(served: tuple[RunDirectory, QueueConfig, list[GroupRef]]):
    run, *_ = served
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "learner.cli.app", "ledger", str(run.root), "--watch"]
    environment = {**os.environ, "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    try:
        os.close(theirs)
        seen, deadline = b"", time.monotonic() + 60
        while b"alpha" not in seen:
            assert time.monotonic() < deadline
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
