"""Measures what a backlog costs: memory per payload byte, and whether append and take slow down."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import redis

from learner.config import QueueConfig
from learner.queue import LearnerQueue
from leeway.v1 import rollout_pb2 as pb
from tests.bench.fill import fill
from tests.bench.sample import sample_group

_TAKE = 16
_DISK_S = 60.0
_RATED = 4000  # groups for each rate


@dataclass(frozen=True)
class BacklogCost:
    """Size and cost of a backlog."""

    groups: int
    payload_bytes: int  # of one group
    memory_ratio: float  # Redis's memory for it, over its payload bytes
    append_ratio: float  # appends per second with it, over those without
    take_ratio: float  # groups taken and committed per second, likewise


def backlog_cost(queue: QueueConfig, groups: int, tokens: int) -> BacklogCost:
    """Fills an empty Redis with ``groups`` of ``tokens`` ids each, and empties it again."""
    with redis.Redis.from_url(queue.url) as client:
        client.flushall()
        empty = _memory(client)
        append_alone = asyncio.run(fill(queue, _RATED, tokens))
        take_alone = _take(queue, _RATED)
        asyncio.run(fill(queue, groups - _RATED, tokens))
        _wait_for_disk(client)
        append_behind = asyncio.run(fill(queue, _RATED, tokens))
        size = len(sample_group(tokens).SerializeToString())
        memory = (_memory(client) - empty) / (groups * size)
        take_behind = _take(queue, _RATED)
        client.flushall()
    return BacklogCost(groups, size, memory, append_behind / append_alone, take_behind / take_alone)


def _wait_for_disk(client: redis.Redis) -> None:
    """Waits until Redis neither syncs nor rewrites its file, so that what is measured next is the backlog alone."""
    deadline = time.monotonic() + _DISK_S
    while time.monotonic() < deadline:
        info: Any = client.info("persistence")
        if not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"] or info["aof_pending_bio_fsync"]):
            return
        time.sleep(0.05)
    raise RuntimeError(f"Redis was still busy with its file after {_DISK_S:.0f} s")


def _take(queue: QueueConfig, groups: int) -> float:
    """Takes and commits all groups; returns groups per second."""
    learner = LearnerQueue.open(queue)
    learner.begin(0, [])
    if learner.next_version() == 0:
        learner.publish(pb.Policy(version=0, step=0, epoch=learner.epoch, uri="file:///w/0"))
    started, taken = time.monotonic(), 0
    while taken < groups:
        own = learner.take(_TAKE, 0, 4)
        taken += len(own)
        learner.commit(1 + taken // _TAKE, [one.ref for one in own])
    elapsed = time.monotonic() - started
    learner.close()
    return taken / elapsed


def _memory(client: redis.Redis) -> int:
    info: Any = client.info("memory")
    return int(info["used_memory"]) - int(info["mem_aof_buffer"]) - int(info["mem_clients_normal"])
