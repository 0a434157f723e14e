"""A learner that is given groups whose loss is not finite: it refuses them, trains the rest, and does not meet them again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from learner.checkpoint import store
from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, imbalances, read_ledgers
from learner.queue.quarantine import Quarantine
from leeway.v1 import rollout_pb2 as pb
from tests.parallel.test_behaviour_loop import GROUPS, STEPS, Loop
from tests.parallel.test_rollback import fill, group

TINY = 1e-40  # logits divided by it are infinite; a gateway would not accept it


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    server = EmbeddedRedis.start(tmp_path / "redis")
    loop = Loop(tmp_path, QueueConfig(url=server.url, run="loop"))
    yield loop
    loop.child.kill()
    server.stop()


def groups(count: int, *bad: int) -> list[pb.Group]:
    made = [group(3, number) for number in range(count)]
    for number in bad:
        made[number].temperature = TINY
    return made


def named(path: Path) -> list[str]:
    """Ids of the groups in a file of the learner's, of all steps."""
    return [group_id for line in path.read_text().splitlines() for _, group_id in json.loads(line)["groups"]]


@pytest.mark.timeout(400)
def test_a_group_that_is_not_finite_is_refused_and_the_step_is_made_without_it(loop: Loop):
    loop.until(lambda: loop.published(0), "version 0")
    made = groups(GROUPS * STEPS, 1)  # all of version 0, whose staleness the run allows for three steps
    asyncio.run(fill(loop.queue, made[: 3 * GROUPS]))
    loop.until(lambda: len(loop.rows()) == 3, "three steps")
    assert [(row["groups"], row["finite"], row["grad_norm"] > 0) for row in loop.rows()] == [
        (GROUPS - 1, True, True),
        (GROUPS, True, True),
        (GROUPS, True, True),
    ]
    (event,) = loop.rows("quarantined")
    assert (event["step"], event["fleet"], event["group"], event["prompt"]) == (1, "local", made[1].group_id, "1")
    loop.until(lambda: bool(store.completed(loop.directory / "checkpoints")), "checkpoint")
    loop.child.kill()

    (ledger,) = read_ledgers(loop.queue.url, "loop")
    assert not imbalances(ledger)
    assert (ledger.quarantined, ledger.accepted) == (1, 3 * GROUPS)
    metrics = loop.directory / "metrics"
    assert made[1].group_id not in named(metrics / "trained.jsonl")
    assert named(metrics / "expired.jsonl") == [made[1].group_id]
    newest = store.completed(loop.directory / "checkpoints")[-1]
    assert [ref.group_id for ref in store.read_state(newest).trained][: GROUPS - 1] == [made[0].group_id]
    with Quarantine(loop.queue) as kept:
        assert [entry.group_id for entry in kept.entries()] == [made[1].group_id]
    loop.start()
    loop.until(lambda: len(loop.rows("start")) == 2, "second start")
    loop.until(lambda: loop.rows()[-1]["epoch"] == 2, "a step of the second start")
    assert len(loop.rows("quarantined")) == 1  # it did not come back
