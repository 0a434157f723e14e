"""Rewards that collapse as planned: the learner rolls back, its supervisor restarts it, and every group is accounted for.

Real Redis, real ranks under torchrun. All groups are in the queue from the start, so every number is known.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from learner.cli.up.process import Process
from learner.config import LearnerConfig, QueueConfig
from learner.queue import Append, EmbeddedRedis, GatewayQueue, LearnerQueue, imbalances, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from rollout.client import new_group_id
from runtime.children import Child
from runtime.response_spans import spans_of
from tests.e2e.accounts import Accounts
from tests.parallel.conftest import SMALL

RANKS, GROUPS, RESPONSES, STEPS = 2, 4, 8, 24
HEALTHY = 12  # steps with half of the responses right; then one in eight
WINDOW, EVERY = 4, 4
_LIMIT_S = 300


def group(right: int, seed: int) -> pb.Group:
    """Makes a group of version 0 with ``right`` rewarded responses."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, SMALL["vocab_size"], (RESPONSES + 1, 6), dtype="<i4")
    spans = [pb.Span(version=0, start=0, end=6)]
    responses = [
        pb.Response(tokens=row.tobytes(), reward=float(n < right), spans=spans) for n, row in enumerate(ids[1:])
    ]
    return pb.Group(
        group_id=new_group_id(),
        prompt_id=str(seed),
        prompt_tokens=ids[0].tobytes(),
        temperature=1.0,
        responses=responses,
    )


async def fill(queue: QueueConfig, groups: list[pb.Group]) -> None:
    gateway = GatewayQueue(queue, quarantine_groups=0)
    await gateway.check()
    content = []
    for one in groups:
        versions = tuple({span.version for response in one.responses for span in spans_of(response)})
        content.append(
            Append("local", one.group_id, one.SerializeToString(), 6 * RESPONSES, 6, RESPONSES, 0.5, versions)
        )
    await gateway.flush(content, {}, [])
    await gateway.close()


def prepare(directory: Path, queue: QueueConfig) -> Path:
    """Makes a small model, announces version 0, fills the queue with enough groups; returns the learner's file."""
    before = LearnerQueue.open(queue)
    before.begin(0, [])
    before.publish(pb.Policy(version=0, step=0, epoch=before.epoch, uri="file:///of/the/test"))
    before.close()
    right = [RESPONSES // 2 if number < HEALTHY * GROUPS else 1 for number in range((STEPS + 8) * GROUPS)]
    asyncio.run(fill(queue, [group(count, seed) for seed, count in enumerate(right)]))
    model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**SMALL, head_dim=32))
    model.float().save_pretrained(directory / "model")
    settings = {
        "model": str(directory / "model"), "queue": queue.model_dump(mode="json"), "steps": STEPS, "groups_per_step": GROUPS,
        "max_staleness": 1000, "metrics_dir": str(directory / "metrics"), "parallel": {"pipeline": RANKS}, "loggers": [],
        "optimizer": {"lr": 1e-4}, "checkpoint": {"dir": str(directory / "checkpoints"), "every": EVERY},
        "publish": {"dir": str(directory / "weights"), "keep": 2 * STEPS, "average": 0.8},
        "alarms": {"window": WINDOW, "reward": "rollback"},
        "lr_control": {"mode": "drift", "drift_target": 1e3, "drift_start": 1.0},  # measures, and leaves the rate as it is
    }  # fmt: skip
    file = directory / "learner.json"
    LearnerConfig.parse(settings, "test").write(file)
    return file


def launch(file: Path, log: Path, ranks: int) -> Child:
    """Starts a learner under torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = [
        "torch.distributed.run",
        f"--nproc-per-node={ranks}",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LEEWAY_CHILD": "1"}
    return Child("learner", [sys.executable, "-m", *torchrun, "-m", "learner", str(file)], log, environment)


def supervise(directory: Path, file: Path) -> Process:
    """Runs the learner to its end, restarting it as `leeway up` does."""
    log = directory / "learner.log"
    process = Process("learner", lambda: launch(file, log, RANKS), log)
    process.start()
    deadline = time.monotonic() + _LIMIT_S
    try:
        while process.state != "done":
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            process.check(may_finish=True)
            time.sleep(0.05)
    finally:
        if process.child is not None:
            process.child.kill()
    return process


def rows(directory: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (directory / "metrics/learner.jsonl").read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["kind"], []).append(row)
    return found


def weights(version: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in version.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.timeout(400)
def test_a_planted_collapse_is_rolled_back_and_every_group_is_accounted_for(tmp_path: Path):
    server = EmbeddedRedis.start(tmp_path / "redis")
    try:
        queue = QueueConfig(url=server.url, run="rollback")
        process = supervise(tmp_path, prepare(tmp_path, queue))
        (ledger,) = read_ledgers(server.url, "rollback")
    finally:
        server.stop()
    found = rows(tmp_path)
    (rollback,) = found["rollback"]
    # The mean has fallen far enough at the third bad step: step 8's checkpoint has had its window by then, step 12's has not.
    assert (rollback["step"], rollback["checkpoint"], rollback["rule"]) == (15, "step_00000008_e0002", "reward")
    assert (rollback["newest_step"], rollback["lost"]) == (12, 4 * GROUPS)
    assert [(row["epoch"], row["resumed_step"]) for row in found["start"]] == [(2, 0), (3, 8)]
    assert process.restarts == 1

    versions = [row["version"] for row in found["version"]]
    assert versions == sorted(set(versions))
    steps = {epoch: [row for row in found["step"] if row["epoch"] == epoch] for epoch in (2, 3)}
    assert [row["step"] for row in steps[3]] == list(range(9, STEPS + 1))
    assert {row["lr"] for row in steps[2]} == {1e-4}
    assert {row["lr"] for row in steps[3]} == {5e-5}
    assert [row["action"] for row in found["alarm"] if row["rule"] == "reward"] == ["rollback"]

    measured = [row["step"] for row in steps[2] + steps[3] if row["drift_measured"] is not None]
    assert measured == [4, 8, 12, 12, 16, 20, 24]  # every fourth step, counted anew from a resume
    assert steps[3][0]["drift_scale"] == pytest.approx(steps[2][8]["drift_scale"])
    # What is published first after the rollback is the average as it was at the checkpoint, not the weights.
    at_8 = [row["version"] for row in found["version"] if row["step"] == 8]
    assert len(at_8) == 2
    old, new = (weights(tmp_path / f"weights/weight_v{version:06d}") for version in at_8)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)

    surviving = Accounts.read(tmp_path).surviving
    assert max(Counter(surviving).values()) == 1
    assert len(surviving) == STEPS * GROUPS
    assert imbalances(ledger) == []
    assert (ledger.trained, ledger.in_flight) == (len(surviving) + rollback["lost"], 0)
