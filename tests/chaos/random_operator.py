"""An operator who changes a running stack at random while its processes die, and the check that each change counts once."""

from __future__ import annotations

import contextlib
import json
import random

from learner.config import QueueConfig
from learner.queue import QueueError
from learner.queue.change_journal import ChangeJournal
from leeway.v1 import operator_pb2 as op
from tests.chaos.stack import RUN, Stack

_SETTLED_S = 240.0  # far above any start of a learner; a machine may be busy
_QUOTA = "gateway.admission.quotas.fleet-0.max_queued_groups"


class Operator:
    """Requests changes of one run, each until it is written down, and again once it is, as a client after a lost answer does.

    Args:
        stack: its processes may be dead at any time.
        seed: decides the changes.

    Attributes:
        asked: request id -> the change, in the order in which they were requested.
    """

    def __init__(self, stack: Stack, seed: int) -> None:
        self.asked: dict[str, op.Change] = {}
        self._stack = stack
        self._draw = random.Random(seed)

    def change(self) -> None:
        """Requests one change; what stops the run is taken back by the next request."""
        for change in self._drawn():
            request_id = f"request-{len(self.asked)}"
            self.asked[request_id] = change
            for _ in range(2):
                self._stack.until(lambda id_=request_id, what=change: self._request(id_, what), "journal", _SETTLED_S)

    def problems(self) -> list[str]:
        """Waits until every change is settled; returns what is wrong: each must be applied once, or refused with a reason.

        What is in force at the end must be what the applied ones make in their order.
        """
        self._stack.until(self._settled, "end of every change", _SETTLED_S)
        with self._journal() as journal:
            found, settings = journal.list(), journal.settings()
        problems = []
        if [record.request_id for record in found] != list(self.asked):
            problems.append(
                f"the journal has {len(found)} changes, and {len(self.asked)} were requested, in another order"
            )
        expected: dict[str, str] = {}
        for record in found:
            if record.change != self.asked.get(record.request_id):
                problems.append(f"change {record.number} is not what was requested")
            if record.state == op.CHANGE_STATE_REFUSED:
                problems += [] if record.reason else [f"change {record.number} is refused without a reason"]
                continue
            expected |= dict(record.change.set.values)
            expected = {name: value for name, value in expected.items() if name not in record.change.unset.names}
        if settings != expected:
            problems.append(f"{settings} is in force, and the changes that were applied make {expected}")
        return problems

    def _drawn(self) -> list[op.Change]:
        draw = self._draw
        kinds: list[list[op.Change]] = [
            [_set(**{"optimizer.lr": draw.choice([1e-4, 2e-4, 5e-4])})],
            [_set(**{"publish.every": draw.randint(1, 3), "weights.fleet-0": draw.randint(1, 3)})],
            [_set(**{_QUOTA: draw.randint(500, 1000)})],
            [_set(**{"optimizer.lr": -1})],
            [op.Change(unset=op.UnsetSettings(names=["optimizer.lr", "publish.every"]))],
            [op.Change(pause=op.Pause()), op.Change(resume=op.Resume())],
            [op.Change(checkpoint=op.SaveCheckpoint())],
            [op.Change(publish=op.PublishVersion())],
            [op.Change(pin=op.PinVersion(version=draw.randint(0, 20)))],
            [op.Change(drain=op.DrainFleet(fleet="fleet-1")), op.Change(undrain=op.UndrainFleet(fleet="fleet-1"))],
        ]
        return draw.choice(kinds)

    def _request(self, request_id: str, change: op.Change) -> bool:
        with contextlib.suppress(QueueError), self._journal() as journal:
            journal.request(request_id, "chaos", change)
            return True
        return False

    def _settled(self) -> bool:
        with contextlib.suppress(QueueError), self._journal() as journal:
            return not journal.pending()
        return False

    def _journal(self) -> ChangeJournal:
        return ChangeJournal(QueueConfig(url=self._stack.redis_url, run=RUN, timeout_s=2.0))


def _set(**values: float) -> op.Change:
    return op.Change(set=op.SetSettings(values={name: json.dumps(value) for name, value in values.items()}))
