"""What the versions of a run are worth, as evaluators have reported it, and which version is the best."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis
from google.protobuf import json_format

from learner.queue.keys import Keys
from leeway.v1 import rollout_pb2

Call = Callable[[str, Sequence[str], Sequence[Any]], Awaitable[Any]]

EVALUATIONS_KEPT = 10_000
MOST_NAMES = 64  # pairs of name and sampling: each is a series of every metric
_PIN_AGE_S = 600.0  # how long a version is kept after an evaluator was last heard of it


class EvaluationRegistry:
    """A gateway's access to the evaluations of a run. All methods raise QueueError or a subclass.

    Args:
        keys: the run's keys.
        call: runs one script.
        read: reads a hash.
    """

    def __init__(self, keys: Keys, call: Call, read: Callable[[str], Awaitable[dict[bytes, bytes]]]) -> None:
        self._keys = keys
        self._call = call
        self._read = read

    async def record(self, evaluation: rollout_pb2.Evaluation) -> bool:
        """Records an evaluation in the place of an earlier one of the same version, name and sampling.

        Returns:
            False if the run has too many different names and samplings, and this is another one.
        """
        keys = self._keys
        names = [keys.evaluations, keys.evaluation_order, keys.evaluation_newest, keys.evaluation_best]
        text = json_format.MessageToJson(evaluation, preserving_proto_field_name=True, indent=None)
        pair = f"{evaluation.name}:{evaluation.sampling}"
        arguments: list[Any] = [evaluation.version, pair, text, EVALUATIONS_KEPT, MOST_NAMES]
        for name, interval in sorted(evaluation.metrics.items()):
            arguments += [name, repr(interval.value)]
        return bool(await self._call("evaluate", names, arguments))

    async def pin(self, fleet: str, worker: str, version: int) -> None:
        """Notes that a worker evaluates a version, so that it is kept for the next ten minutes."""
        await self._call("pin", [self._keys.evaluating], [f"{fleet}/{worker}", version])

    async def newest(self) -> list[rollout_pb2.Evaluation]:
        """Reads the evaluation of the newest version for each name and sampling."""
        stored = await self._read(self._keys.evaluation_newest)
        return [parse(value.partition(b" ")[2]) for _, value in sorted(stored.items())]


def parse(text: bytes) -> rollout_pb2.Evaluation:
    """Parses an evaluation as it is stored."""
    return json_format.Parse(text, rollout_pb2.Evaluation(), ignore_unknown_fields=True)


def read_evaluations(client: redis.Redis, keys: Keys) -> list[rollout_pb2.Evaluation]:
    """Reads every evaluation that Redis still has, by version, name and sampling."""
    stored: Any = client.hvals(keys.evaluations)
    found = [parse(text) for text in stored]
    return sorted(found, key=lambda one: (one.version, one.name, one.sampling))


def read_best(client: redis.Redis, keys: Keys, metric: str) -> int | None:
    """Reads which version is the best one by a metric, name:sampling:metric; None before the first evaluation."""
    stored: Any = client.hget(keys.evaluation_best, metric)
    return None if stored is None else int(stored.partition(b" ")[0])


def read_evaluating(client: redis.Redis, keys: Keys) -> dict[str, int]:
    """Reads the versions that are being evaluated: "fleet/worker" -> version, of those heard of in the last ten minutes."""
    # Redis wrote the times, so its clock is the one to compare them with.
    seconds, _ = client.time()  # pyright: ignore[reportGeneralTypeIssues]
    stored: Any = client.hgetall(keys.evaluating)
    found: dict[str, int] = {}
    for worker, value in stored.items():
        version, _, unix_ms = value.decode().partition(":")
        if seconds - int(unix_ms) / 1000 <= _PIN_AGE_S:
            found[worker.decode()] = int(version)
    return found
