"""`python -m tests.chaos.hostile`: two fleets that obey their leases, beside four that do not behave; what becomes of whom.

A real gateway and a real Redis; a learner that takes, commits and publishes, and does nothing else. The hostile fleets run in
a process of their own: one never refits and floods, one ignores leases, one asks for all leases and makes nothing, and one
sends bombs (see tests.chaos.bombs). The last line is `share=... longest_take_s=... gateway_mib=... expired=...`: the least
share of a fleet that obeys over its fair share, how long the longest take of a batch lasted, the most memory that the gateway
ever had, and how many groups of the obedient fleets expired.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, TakenGroup, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from runtime.children import Child
from tests.chaos.stack import most_memory_mib
from tests.chaos.villains import OBEDIENT, USEFUL, VILLAINS, Obedient
from tests.service.fleet import RUN, GatewayProcess

_STEP = 16  # groups the learner takes at a time
_STEP_S = 0.08  # time of a step: 200 groups/s at most
_STALENESS = 4
_EXPIRE_AFTER = 8 * _STALENESS
_COMMIT_EVERY = 4  # steps
_LEAST_SHARE = 0.9
_MOST_GATEWAY_MIB = 1024.0


@dataclass
class Outcome:
    """Figures of one phase.

    Attributes:
        trained: groups trained, by fleet.
        steps: optimizer steps.
        seconds: duration.
        longest_take_s: the longest that the learner waited for a whole batch.
        gateway_mib: most memory that the gateway has had so far.
        ledgers: of every fleet, at the end.
    """

    trained: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    seconds: float = 0.0
    longest_take_s: float = 0.0
    gateway_mib: float = 0.0
    ledgers: dict[str, pb.Ledger] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Least share of an obedient fleet over its fair share: fleets whose groups can be trained share alike."""
        competing = [fleet for fleet in USEFUL if fleet in OBEDIENT or self.trained[fleet]]
        fair = self.trained.total() / len(competing)
        return min(self.trained[fleet] for fleet in OBEDIENT) / fair if fair else 0.0

    @property
    def expired(self) -> int:
        """Expired groups of obedient fleets."""
        return sum(self.ledgers[fleet].expired for fleet in OBEDIENT if fleet in self.ledgers)


class Learner:
    """Takes batches at a steady pace, and publishes a version after every step."""

    def __init__(self, url: str) -> None:
        self._queue = LearnerQueue.open(QueueConfig(url=url, run=RUN, timeout_s=10.0))
        self._queue.begin(0, [])
        self._step = 0
        self._uncommitted: list[TakenGroup] = []
        self._publish()

    def phase(self, seconds: float) -> Outcome:
        """Trains for so long and returns what was trained. A batch that never comes ends with the time."""
        outcome, began = Outcome(), time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            batch = self._batch(began + seconds)
            taken_at = time.monotonic()
            outcome.longest_take_s = max(outcome.longest_take_s, taken_at - now)
            if len(batch) < _STEP:
                break
            outcome.trained.update(one.ref.fleet for one in batch)
            outcome.steps += 1
            self._train(batch)
            time.sleep(max(0.0, now + _STEP_S - time.monotonic()))
        outcome.seconds = time.monotonic() - began
        return outcome

    def close(self) -> None:
        self._queue.close()

    def _batch(self, until: float) -> list[TakenGroup]:
        batch: list[TakenGroup] = []
        while len(batch) < _STEP and time.monotonic() < until:
            more = self._queue.take(_STEP - len(batch), self._step, _EXPIRE_AFTER)
            batch += more
            if not more:
                time.sleep(0.002)
        return batch

    def _train(self, batch: list[TakenGroup]) -> None:
        self._step += 1
        self._uncommitted += batch
        if self._step % _COMMIT_EVERY == 0:
            self._queue.commit(self._step, [one.ref for one in self._uncommitted])
            self._uncommitted = []
        self._publish()

    def _publish(self) -> None:
        policy = pb.Policy(version=self._step, step=self._step, epoch=self._queue.epoch, uri=f"file:///w/{self._step}")
        self._queue.publish(policy)
        self._queue.report(self._step, self._step, len(self._uncommitted))


async def measure(directory: Path, seconds: float) -> tuple[Outcome, Outcome]:
    """Runs the obedient fleets alone, then beside the hostile ones; ``seconds`` each."""
    server = EmbeddedRedis.start(directory / "redis", "everysec")
    learner = Learner(server.url)
    admission = {
        "groups_per_step": _STEP,
        "max_staleness": _STALENESS,
        "expire_after": _EXPIRE_AFTER,
        "lease_s": 5.0,
    }
    gateway = GatewayProcess(directory / "gateway", server.url, admission=admission)
    tokens = {name: f"{name}-secret" for name in (*OBEDIENT, *VILLAINS)}
    digests = {name: {"tokens": [hashlib.sha256(token.encode()).hexdigest()]} for name, token in tokens.items()}
    gateway.identities_file.write_text(json.dumps(digests))
    villains: Child | None = None
    fleets: list[asyncio.Task[None]] = []
    try:
        await gateway.ready()
        fleets = [asyncio.create_task(Obedient(gateway.address, tokens[name]).run()) for name in OBEDIENT]
        await asyncio.to_thread(learner.phase, 3.0)  # the fleets start
        alone = await asyncio.to_thread(learner.phase, seconds)
        villains = Child(
            "villains",
            [sys.executable, "-m", "tests.chaos.villains", gateway.address, json.dumps(tokens)],
            directory / "villains.log",
        )
        await asyncio.to_thread(learner.phase, 3.0)
        before = _ledgers(server.url)
        beside = await asyncio.to_thread(learner.phase, seconds)
        for fleet in fleets:
            if fleet.done():
                fleet.result()
        beside.ledgers = _ledgers(server.url)
        beside.gateway_mib = most_memory_mib(gateway.child.pid)
        alone.ledgers = before
        if villains.exit_code() is not None:
            raise AssertionError(f"the hostile fleets have ended: {villains.tail()}")
    finally:
        for fleet in fleets:
            fleet.cancel()
        await asyncio.gather(*fleets, return_exceptions=True)
        if villains is not None:
            villains.kill()
        gateway.child.kill()
        learner.close()
        server.stop()
    return alone, beside


def _ledgers(url: str) -> dict[str, pb.Ledger]:
    return {ledger.fleet: ledger for ledger in read_ledgers(url, RUN, timeout_s=30.0)}


def show(alone: Outcome, beside: Outcome) -> None:
    """Prints what became of every fleet's groups."""
    table = Table(title="Groups by fleet, beside the hostile fleets", title_justify="left")
    for name in ("fleet", "trained in the phase", "accepted", "expired", "rejected", "retried", "why"):
        table.add_column(name, justify="left" if name in ("fleet", "why") else "right")
    for fleet in (*OBEDIENT, *VILLAINS):
        ledger = beside.ledgers.get(fleet, pb.Ledger())
        reasons = {**ledger.rejected_by_reason, **ledger.retried_by_reason}
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        row = (beside.trained[fleet], ledger.accepted, ledger.expired, ledger.rejected, ledger.retried)
        table.add_row(fleet, *map(str, row), why)
    Console(width=140).print(table)
    print(
        f"steps/s: {alone.steps / alone.seconds:.1f} alone, {beside.steps / beside.seconds:.1f} beside hostile fleets; "
        f"longest take: {alone.longest_take_s:.2f} s alone, {beside.longest_take_s:.2f} s beside them"
    )


def main(arguments: list[str]) -> int:
    """Prints the figures; returns exit status 1 if an obedient fleet got too little, or lost groups, or memory ran up."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.hostile", description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two phases (default: %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        alone, beside = asyncio.run(measure(Path(root), options.seconds))
    show(alone, beside)
    print(
        f"share={beside.share:.2f} longest_take_s={beside.longest_take_s:.2f} "
        f"gateway_mib={beside.gateway_mib:.0f} expired={beside.expired}"
    )
    held = beside.share >= _LEAST_SHARE and beside.gateway_mib < _MOST_GATEWAY_MIB and beside.expired == 0
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
