"""Puts groups into a run's queue as a gateway does, without the network."""

from __future__ import annotations

import time

from learner.config import QueueConfig
from learner.queue import Append, Appended, GatewayQueue
from leeway.v1 import rollout_pb2 as pb
from rollout.client import new_group_id
from tests.bench.sample import RESPONSES, sample_group

_FLUSH = 128


async def fill(queue: QueueConfig, groups: int, tokens: int, template: pb.Group | None = None) -> float:
    """Appends groups of ``tokens`` ids each, copies of ``template`` if given; returns groups per second."""
    gateway = GatewayQueue(queue, quarantine_groups=0)
    await gateway.check()
    template = template or sample_group(tokens)
    started = time.monotonic()
    for done in range(0, groups, _FLUSH):
        batch = [_group(template, tokens) for _ in range(min(_FLUSH, groups - done))]
        flushed = await gateway.flush(batch, {}, [])
        if set(flushed.outcomes) != {Appended.ACCEPTED}:
            raise RuntimeError(f"groups were not accepted: {set(flushed.outcomes)}")
    elapsed = time.monotonic() - started
    await gateway.close()
    return groups / elapsed


def _group(template: pb.Group, tokens: int) -> Append:
    template.group_id = new_group_id()
    versions = tuple({span.version for response in template.responses for span in response.spans})
    return Append("bench", template.group_id, template.SerializeToString(), tokens, tokens, RESPONSES, 0.5, versions)
