"""The learner's loop with adapters and an objective that needs log mu: killed, resumed, and one version deleted; then groups
that nobody judged, and responses of several segments. Real Redis; the test plays gateway and fleet."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from learner.checkpoint.store import completed, read_state
from learner.config import LearnerConfig, QueueConfig
from learner.queue import EmbeddedRedis, imbalances, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from runtime.children import Child
from runtime.version_format.base_digest import weights_digest
from tests.parallel.conftest import SMALL
from tests.parallel.test_rollback import fill, group

STEPS, GROUPS = 7, 2
_LIMIT_S = 300


def unscored(one: pb.Group) -> pb.Group:
    """The group with no reward at all; of some of its responses not even tokens came."""
    for number, response in enumerate(one.responses):
        if number % 2:
            response.CopyFrom(pb.Response())
        response.unscored = "reward_timeout"
    return one


def in_segments(one: pb.Group) -> pb.Group:
    """The group with every response cut into two segments; the second one does not repeat the prompt."""
    for number, response in enumerate(one.responses):
        tokens, spans = response.tokens, list(response.spans)
        parts = ((one.prompt_tokens, tokens[:8], spans[:1]), (tokens[:4], tokens[8:], spans[1:]))
        segments = [pb.Segment(context_tokens=a, tokens=b, spans=own) for a, b, own in parts]
        segments[1].spans[0].start, segments[1].spans[0].end = 0, 4
        response.CopyFrom(pb.Response(segments=segments, reward=response.reward))
        response.unscored = "" if number % 3 else "agent_crashed"
    return one


class Loop:
    """A learner of one rank, and its files."""

    def __init__(self, directory: Path, queue: QueueConfig) -> None:
        self.directory = directory
        self.queue = queue
        self.fed = 0
        model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**SMALL, head_dim=32))
        model.float().save_pretrained(directory / "model")
        settings = {
            "model": str(directory / "model"), "queue": queue.model_dump(mode="json"), "steps": STEPS, "loggers": [],
            "groups_per_step": GROUPS, "max_staleness": 2, "metrics_dir": str(directory / "metrics"),
            "optimizer": {"lr": 1e-2}, "checkpoint": {"dir": str(directory / "checkpoints"), "every": 2},
            "publish": {"dir": str(directory / "weights"), "keep": 2}, "objective": {"name": "topr", "kl_coef": 0.01},
            "behaviour": {"drift_every": 1}, "refill": {"enabled": False}, "lr_control": {"mode": "ess"},
            "lora": {"rank": 4, "alpha": 64},
        }  # fmt: skip
        LearnerConfig.parse(settings, "test").write(directory / "learner.json")
        self.child = self.start()

    def start(self) -> Child:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "learner", str(self.directory / "learner.json")]
        rank = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "LEEWAY_CHILD": "1", **rank}
        self.child = Child("learner", command, self.directory / "learner.log", environment)
        return self.child

    def feed(self, *versions: tuple[int, int], change: Callable[[pb.Group], pb.Group] = lambda one: one) -> None:
        """Puts a group into the queue for each pair: its first tokens are of the first version, the others of the second."""
        groups = []
        for first, second in versions:
            self.fed += 1
            one = group(3, self.fed)
            for response in one.responses:
                del response.spans[:]
                response.spans.extend([pb.Span(version=first, start=0, end=2), pb.Span(version=second, start=2, end=6)])
            groups.append(change(one))
        asyncio.run(fill(self.queue, groups))

    def rows(self, kind: str = "step") -> list[dict[str, Any]]:
        path = self.directory / "metrics/learner.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        return [row for row in rows if row["kind"] == kind]

    def published(self, version: int) -> bool:
        return any(row["version"] == version for row in self.rows("version"))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while not condition():
            assert self.child.exit_code() in (None, 0), self.child.tail()
            assert time.monotonic() < deadline, f"no {what}\n{self.child.tail()}"
            time.sleep(0.05)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    server = EmbeddedRedis.start(tmp_path / "redis")
    loop = Loop(tmp_path, QueueConfig(url=server.url, run="loop"))
    yield loop
    loop.child.kill()
    server.stop()


@pytest.mark.timeout(400)
def test_log_mu_survives_a_kill_and_a_lost_version_is_not_trained_on(loop: Loop):
    for version, pairs in enumerate([[(0, 0)] * 2, [(0, 1), (1, 1)], [(2, 2)] * 2]):
        loop.until(lambda version=version: loop.published(version), f"version {version}")
        loop.feed(*pairs)
    loop.until(lambda: len(loop.rows()) == 3 and loop.published(3), "three steps")
    loop.child.kill()
    first = loop.rows()
    assert [row["versions_read"] for row in first] == [0, 0, 0]  # all in memory
    assert first[0]["true_drift"] == pytest.approx(
        0, abs=1e-6
    )  # trained with the weights that are said to have made it
    assert first[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert abs(first[1]["drift_staleness"]["1"][0]) > 1e-4
    assert first[1]["drift_staleness"]["0"][0] == pytest.approx(0, abs=1e-6)
    assert first[2]["kl"] > 1e-4  # the reference stays what it was

    shutil.rmtree(loop.directory / "weights/weight_v000003")  # of the lost timeline
    loop.start()
    loop.until(lambda: loop.published(4), "the version after the resume")
    loop.feed((3, 3), (2, 4), (4, 4), (4, 4), (4, 4))
    loop.feed((4, 4), (4, 4), change=unscored)
    loop.feed((2, 4), (4, 4), change=in_segments)
    loop.until(lambda: loop.child.exit_code() == 0, "end of the run")
    second = loop.rows()[3:]
    assert [row["step"] for row in second] == [3, 4, 5, 6, 7]
    # Step 3 again, with the same groups and weights: their version comes from disk now, and the numbers are the same.
    assert second[0]["versions_read"] == 1
    for name in ("true_drift", "kl", "loss", "drift"):
        assert second[0][name] == pytest.approx(first[2][name], rel=1e-3, abs=1e-6), name
    rated = [row for row in [*first, *second] if row["ess_share"] is not None]
    assert [row["lr"] for row in rated] == pytest.approx([1e-2 * math.sqrt(row["ess_share"]) for row in rated])
    assert first[0]["ess_share"] == pytest.approx(1.0, abs=1e-6)
    assert min(row["lr"] for row in rated) < 0.99e-2
    assert {row["step"] for row in rated if row["growth"] is None} == set()
    assert [row["gradient_cosine"] is None for row in first] == [True, False, False]
    assert second[0]["gradient_cosine"] is None  # the last gradient is not in a checkpoint
    assert second[-1]["unusable"] == 1
    assert all(row["finite"] for row in second)
    *_, nobody, cut = second
    wanted = {
        "reward": None,
        "unscored": 1.0,
        "unscored_groups": 2,
        "segments": None,
        "trained_tokens": 0,
        "update_norm": None,
        "ess_share": None,
        "lr": 1e-2,
    }
    assert {name: nobody[name] for name in wanted} == wanted
    # Of 8 responses 0, 3 and 6 have no reward; of the others 1 and 2 are right. Each has segments of 8 and 5 tokens.
    assert cut["reward"] == pytest.approx(2 / 5)
    assert (cut["unscored"], cut["unscored_groups"], cut["segments"]) == (6 / 16, 0, 2.0)
    assert (cut["trained_tokens"], cut["drift_tokens"]) == (2 * 5 * 13, 2 * 5 * 6)
    assert list(cut["drift_staleness"]) == ["4-7"]
    assert cut["update_norm"] > 0
    assert "reward" not in {row["rule"] for row in loop.rows("alarm")}
    (ledger,) = read_ledgers(loop.queue.url, "loop")
    assert not imbalances(ledger)
    assert (ledger.trained, ledger.expired) == (STEPS * GROUPS, 1)
    pinned = read_state(completed(loop.directory / "checkpoints")[-1]).extra["model"]
    assert pinned["digest of the weights"] == weights_digest(loop.directory / "model"), "another base will be refused"
    assert pinned["learner.lora"]["rank"] == 4
