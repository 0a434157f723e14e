"""`python -m tests.chaos.shares`: measures how the learner is shared between fleets that send more than it can train.

A real gateway and a real Redis; a learner that takes and commits and does nothing else, slower than the fleets. Two fleets
of weights 3 and 1, whose groups differ in size; then the same two beside a third one that floods at twenty times its quota.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, TakenGroup, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, TOKENS, GatewayProcess, uuid7, valid_group

WEIGHTS = {"alpha": 3.0, "beta": 1.0}
FLOOD = "flood"
QUOTA_PER_S = 2.0
FLOOD_PER_S = 20 * QUOTA_PER_S
_LENGTHS = {"alpha": (60, 100), "beta": (5, 200), FLOOD: (50, 50)}  # tokens of a response, in turn between the two
_STEP = 16  # groups the learner takes at a time
_STEP_S = 0.08  # time between takes: 200 groups/s at most
_DEPTH = 48  # groups that each fleet keeps unacknowledged or waiting


@dataclass
class Shares:
    """Tokens trained by fleet, and the outcomes of the flood's groups."""

    tokens: Counter[str] = field(default_factory=Counter)  # by fleet
    starved: int = 0  # takes at which a saturating fleet had nothing waiting
    outcomes: Counter[str] = field(default_factory=Counter)  # of the flood's groups
    reasons: Counter[str] = field(default_factory=Counter)  # of its RETRYs

    @property
    def ratio(self) -> float:
        return self.tokens["alpha"] / self.tokens["beta"]

    def share(self, fleet: str) -> float:
        """Fraction of all trained tokens that came from a fleet."""
        return self.tokens[fleet] / sum(self.tokens.values())


async def measure(directory: Path, tokens: int, flood: bool, sizes: str = "different") -> Shares:
    """Runs until the learner has trained ``tokens`` tokens.

    Args:
        directory: for the servers' files.
        sizes: "same": all groups cost the same; "different": see _LENGTHS.
    """
    server = EmbeddedRedis.start(directory / "redis", "everysec")
    queue = LearnerQueue.open(QueueConfig(url=server.url, run=RUN), WEIGHTS)
    queue.begin(0, [])
    queue.publish(pb.Policy(version=0, step=0, epoch=queue.epoch, uri="file:///w/0"))
    quotas = {FLOOD: {"groups_per_s": QUOTA_PER_S}}
    admission = {"quotas": quotas, "max_queued_groups": 100_000, "weights": WEIGHTS}
    gateway = GatewayProcess(directory / "gateway", server.url, admission=admission)
    _issue(gateway.identities_file)
    shares = Shares()
    try:
        await gateway.ready()
        room = {name: asyncio.Semaphore(_DEPTH) for name in WEIGHTS}
        work = [_saturate(gateway, name, room[name], sizes) for name in WEIGHTS]
        work += [_flood(gateway, shares)] if flood else []
        tasks = [asyncio.create_task(one) for one in work]
        await _learn(queue, server.url, room, shares, tokens)
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        gateway.child.kill()
        queue.close()
        server.stop()
    return shares


def _issue(path: Path) -> None:
    path.write_text(
        json.dumps({name: {"tokens": [hashlib.sha256(_token(name).encode()).hexdigest()]} for name in _LENGTHS})
    )


def _token(fleet: str) -> str:
    return TOKENS.get(fleet, f"{fleet}-secret")


def _groups(fleet: str, sizes: str) -> Any:
    lengths = _LENGTHS[fleet] if sizes == "different" else (50,)
    return (valid_group(length=length, group_id=uuid7()) for length in itertools.cycle(lengths))


async def _saturate(gateway: GatewayProcess, name: str, room: asyncio.Semaphore, sizes: str) -> None:
    """Keeps a fleet's groups waiting at the learner: as soon as one is trained, another is sent."""
    async with gateway.connect(_token(name)) as fleet:
        call = fleet.open(timeout=600)
        reading = asyncio.create_task(_only_accepted(call))
        try:
            for sequence, group in enumerate(_groups(name, sizes)):
                await room.acquire()
                if reading.done():
                    reading.result()
                await call.write(pb.SubmitRequest(sequence=sequence, group=group))
        finally:
            reading.cancel()


async def _only_accepted(call: Any) -> None:
    async for response in call:
        for ack in response.acks:
            if ack.outcome != pb.OUTCOME_ACCEPTED:
                raise AssertionError(f"a fleet within its limits was told {ack}")


async def _flood(gateway: GatewayProcess, shares: Shares) -> None:
    """Sends FLOOD_PER_S groups a second, whatever the gateway answers."""
    async with gateway.connect(_token(FLOOD)) as fleet:
        call = fleet.open(timeout=600)

        async def read() -> None:
            async for response in call:
                for ack in response.acks:
                    shares.outcomes[pb.Outcome.Name(ack.outcome).removeprefix("OUTCOME_")] += 1
                    shares.reasons[ack.reason] += bool(ack.reason)

        reading = asyncio.create_task(read())
        started = time.monotonic()
        try:
            for sequence, group in enumerate(_groups(FLOOD, "different")):
                await asyncio.sleep(max(0.0, started + sequence / FLOOD_PER_S - time.monotonic()))
                await call.write(pb.SubmitRequest(sequence=sequence, group=group))
        finally:
            reading.cancel()


async def _learn(
    queue: LearnerQueue, url: str, room: dict[str, asyncio.Semaphore], shares: Shares, tokens: int
) -> None:
    """Takes and commits at a steady pace; counting begins when every fleet saturates."""
    step, counting = 0, False
    while sum(shares.tokens.values()) < tokens:
        await asyncio.sleep(_STEP_S)
        ready = await asyncio.to_thread(_queued, url)
        counting = counting or all(ready[name] >= _STEP for name in room)
        if not counting:
            continue
        shares.starved += not all(ready[name] for name in room)
        taken = await asyncio.to_thread(queue.take, _STEP, 0, 1_000_000)
        step += 1
        await asyncio.to_thread(queue.commit, step, [one.ref for one in taken])
        for one in taken:
            shares.tokens[one.ref.fleet] += _cost(one)
            if one.ref.fleet in room:
                room[one.ref.fleet].release()


def _queued(url: str) -> Counter[str]:
    return Counter({ledger.fleet: ledger.queued for ledger in read_ledgers(url, RUN)})


def _cost(taken: TakenGroup) -> int:
    """Number of tokens that training on the group costs: prompt and response of each sequence."""
    group = taken.group
    return sum(len(group.prompt_tokens) + len(response.tokens) for response in group.responses) // 4


def main() -> int:
    """Prints the figures; returns exit status 1 if a bound is broken."""
    failed = False
    with tempfile.TemporaryDirectory() as root:
        for name, flood, sizes in (("same sizes", False, "same"), ("different sizes", False, "different")):
            shares = asyncio.run(measure(Path(root) / name.replace(" ", "-"), 400_000, flood, sizes))
            failed |= abs(shares.ratio / 3 - 1) > 0.02
            print(f"{name}: trained tokens alpha:beta = {shares.ratio:.3f}, wanted 3 within 2%")
        alone = shares
        shares = asyncio.run(measure(Path(root) / "flood", 400_000, True))
    changes = {fleet: shares.share(fleet) / alone.share(fleet) - 1 for fleet in WEIGHTS}
    failed |= any(abs(change) > 0.02 for change in changes.values())
    said = ", ".join(f"{fleet} {change:+.2%}" for fleet, change in changes.items())
    print(f"beside a flood at 20x its quota: shares of all trained tokens change by {said}, wanted under 2%")
    print(f"the flood was told {dict(shares.outcomes)}, because of {dict(shares.reasons)}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
