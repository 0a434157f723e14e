"""An evaluator with real SGLang, gateway and Redis: it measures a version that it keeps, while newer ones are published."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue
from learner.queue.connect import connect
from learner.queue.evaluation_registry import read_evaluations
from learner.queue.keys import Keys
from rollout.data.demo_model import write_model
from runtime.children import Child
from tests.e2e.stack import free_port
from tests.service.fleet import RUN, TOKENS, GatewayProcess, write_identities
from tests.tools.published import publish

_LIMIT_S = 300.0


async def until(condition: Callable[[], Any], evaluator: Child) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, evaluator.tail()
        assert evaluator.exit_code() in (None, 0), evaluator.tail()
        await asyncio.sleep(0.05)


def settings(root: Path, gateway: GatewayProcess) -> Path:
    values = {
        "gateway": gateway.address,
        "token_file": str(root / "token"),
        "model": str(root / "model"),
        "state_dir": str(root / "state"),
        "results": str(root / "metrics/evaluations.jsonl"),
        "log_dir": str(root / "logs"),
        "allowed_uris": [(root / "weights").absolute().as_uri()],
        "task": {"name": "sort", "held_out": 0.5},
        "every": 1,
        "prompts": 24,
        "sampling": [{}, {"samples": 4, "temperature": 1.0}],
        "max_new_tokens": 7,
        "engine": {"base_port": free_port(), "start_timeout_s": _LIMIT_S},
    }
    (root / "token").write_text(TOKENS["beta"])
    (root / "evaluator.json").write_text(json.dumps(values))
    return root / "evaluator.json"


async def test_a_version_is_evaluated_whole_while_newer_ones_are_published(tmp_path: Path):
    redis = EmbeddedRedis.start(tmp_path / "redis")
    gateway = await GatewayProcess(tmp_path / "gateway", redis.url, limits={"vocab_size": 16}).ready()
    digest = hashlib.sha256(TOKENS["beta"].encode()).hexdigest()
    write_identities(gateway.identities_file, {"beta": {"tokens": [digest], "roles": ["evaluate"]}})
    write_model(tmp_path / "model", 0)
    config = QueueConfig(url=redis.url, run=RUN)
    learner = LearnerQueue.open(config)
    learner.begin(0, [])
    published = 0

    def train() -> None:
        """Publishes the next version, of other weights."""
        nonlocal published
        source = tmp_path / f"source-{published}"
        write_model(source, seed=published)
        learner.publish(publish(source, tmp_path / "weights", published))
        published += 1

    train()
    command = [sys.executable, "-m", "rollout", "evaluate", str(settings(tmp_path, gateway))]
    evaluator = Child("evaluator", command, tmp_path / "evaluator.log", {**os.environ, "LEEWAY_CHILD": "1"})
    results = tmp_path / "metrics/evaluations.jsonl"

    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    try:
        await until(lambda: learner.evaluated_versions(None) == {0}, evaluator)  # it is kept before the engine is up
        while not rows():  # training goes on
            if published < 20:
                train()
            await until(lambda: True, evaluator)
            await asyncio.sleep(0.2)
        await until(lambda: len(rows()) >= 4, evaluator)
        learner.end()
        await until(lambda: evaluator.exit_code() == 0, evaluator)
        found = [(row["version"], row["sampling"], row["prompts"], row["unscored"]) for row in rows()]
        assert found[:2] == [(0, "greedy", 24, 0), (0, "sampled", 24, 0)]
        evaluated = [version for version, *_ in found[::2]]
        assert evaluated[1] > 1  # those between were passed over
        assert evaluated[-1] == published - 1
        assert "thrown away" not in (tmp_path / "evaluator.log").read_text()
        client = connect(config)
        reported = read_evaluations(client, Keys(RUN))
        assert [(one.version, one.sampling) for one in reported] == [row[:2] for row in found]
        assert client.smembers(Keys(RUN).fleets) == set()  # nothing was submitted
        client.close()
    finally:
        evaluator.kill()
        gateway.child.kill()
        learner.close()
        redis.stop()
