"""Tests that data of another schema is refused, by a learner and by a gateway, and that nothing is written to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from learner.config import QueueConfig
from learner.queue import GatewayQueue, LearnerQueue, QueueError, UnavailableError
from learner.queue.schema import SCHEMA
from tests.service.fleet import valid_group
from tests.service.queueing import client, feed

PREFIX = "leeway:{test}:"


async def test_a_new_run_is_marked_by_whoever_comes_first(config: QueueConfig, gateway_queue: GatewayQueue):
    with client(config) as raw:
        assert raw.get(PREFIX + "schema") == SCHEMA.encode()
        raw.delete(PREFIX + "schema")
        await asyncio.to_thread(lambda: LearnerQueue.open(config).close())
        assert raw.get(PREFIX + "schema") == SCHEMA.encode()
    await gateway_queue.check()


@pytest.mark.parametrize("schema", ["1", str(int(SCHEMA) + 1)])
async def test_data_of_another_schema_is_refused(
    config: QueueConfig, gateway_queue: GatewayQueue, open_learner: Callable[[], LearnerQueue], schema: str
):
    with client(config) as raw:
        raw.set(PREFIX + "schema", schema)
        before = raw.keys()
        with pytest.raises(
            QueueError, match=rf"schema = '{schema}': another release .* reads schema '{SCHEMA}' only"
        ) as learner:
            await asyncio.to_thread(open_learner)
        gateway = GatewayQueue(config, 0)
        with pytest.raises(QueueError, match="use that release, or a new run name") as refused:
            await gateway.check()
        await feed(gateway, [valid_group()])
        assert sorted(raw.keys()) == sorted(before)  # no learner was fenced, nothing was appended
    assert not any(isinstance(error.value, UnavailableError) for error in (learner, refused))  # waiting does not help
    await gateway.close()
