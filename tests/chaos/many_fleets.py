"""`python -m tests.chaos.many_fleets`: fifty fleets with four streams each, all at once, on one gateway."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from learner.config import QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue, imbalances, read_ledgers
from leeway.v1 import rollout_pb2 as pb
from tests.chaos.report import quantile
from tests.chaos.streams import StreamsConfig
from tests.service.fleet import RUN, GatewayProcess

FLEETS = 50
STREAMS = 200
_PROCESSES = 2
_START_S = 6.0  # for the clients' imports and connections


@dataclass(frozen=True)
class Crowd:
    """Totals of what all clients saw."""

    latencies: list[float]  # seconds from sending a group to its ack, ascending
    errors: list[str]  # everything that was not an acceptance
    streams: int
    fleets: int  # that the ledger knows
    violations: list[str]  # of the accounting invariant
    gateway_cpu: float  # of one core, while the groups came

    def __str__(self) -> str:
        p50, p99 = (1000 * quantile(self.latencies, q) for q in (0.5, 0.99))
        return (
            f"{self.fleets} fleets, {self.streams} streams: {len(self.latencies)} groups, {len(self.errors)} errors, ack p50 "
            f"{p50:.1f} ms, p99 {p99:.1f} ms, longest {1000 * self.latencies[-1]:.1f} ms; gateway at "
            f"{self.gateway_cpu:.0%} of a core; {len(self.violations)} imbalances of ledgers"
        )


async def measure(directory: Path, groups: int, per_s: float, length: int = 256) -> Crowd:
    """Runs the crowd against a gateway of its own, with a learner that takes and commits.

    Args:
        directory: for the servers' files.
        groups: of each stream.
        per_s: groups a second, of each stream.
        length: tokens of each of a group's two responses.
    """
    server = EmbeddedRedis.start(directory / "redis", "everysec")
    queue = LearnerQueue.open(QueueConfig(url=server.url, run=RUN))
    queue.begin(0, [])
    queue.publish(pb.Policy(version=0, step=0, epoch=queue.epoch, uri="file:///w/0"))
    gateway = GatewayProcess(directory / "gateway", server.url)
    fleets = [f"fleet-{index:02d}" for index in range(FLEETS)]
    identities = {name: {"tokens": [hashlib.sha256(name.encode()).hexdigest()]} for name in fleets}
    gateway.identities_file.write_text(json.dumps(identities))
    clients: list[subprocess.Popen[str]] = []
    try:
        await gateway.ready()
        tokens = [fleets[index % FLEETS] for index in range(STREAMS)]
        for index in range(_PROCESSES):
            config = StreamsConfig(
                address=gateway.address, tokens=tokens[index::_PROCESSES], per_s=per_s, groups=groups, length=length,
                start=time.time() + _START_S,
            )  # fmt: skip
            config.write(directory / f"streams-{index}.json")
            command = [sys.executable, "-m", "tests.chaos.streams", str(directory / f"streams-{index}.json")]
            clients.append(_client(command))
        cpu = _cpu(gateway)
        outputs = await _train_until_done(queue, clients)
        seen = [json.loads(output) for output in outputs]
        ledgers = read_ledgers(server.url, RUN)
        return Crowd(
            latencies=sorted(latency for one in seen for latency in one["latencies"]),
            errors=[error for one in seen for error in one["errors"]],
            streams=STREAMS,
            fleets=len(ledgers),
            violations=[line for ledger in ledgers for line in imbalances(ledger)],
            gateway_cpu=(_cpu(gateway) - cpu) / (groups / per_s),
        )
    finally:
        for client in clients:
            client.kill()
            client.communicate()
        gateway.child.kill()
        queue.close()
        server.stop()


async def _train_until_done(queue: LearnerQueue, clients: list[subprocess.Popen[str]]) -> list[str]:
    """Takes and commits while the clients run; returns what each of them printed."""
    reading = [asyncio.create_task(asyncio.to_thread(client.communicate, timeout=300)) for client in clients]
    step = 0
    while not all(task.done() for task in reading):
        taken = await asyncio.to_thread(queue.take, 256, 0, 1)
        step += 1
        await asyncio.to_thread(queue.commit, step, [one.ref for one in taken])
        await asyncio.wait(reading, timeout=0.0 if taken else 0.05)
    return [task.result()[0] for task in reading]


def _client(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _cpu(gateway: GatewayProcess) -> float:
    times = psutil.Process(gateway.child.pid).cpu_times()
    return times.user + times.system


def main() -> int:
    """Prints the figures; returns exit status 1 if something was refused or does not add up."""
    with tempfile.TemporaryDirectory() as root:
        crowd = asyncio.run(measure(Path(root), groups=60, per_s=2.0))
    print(crowd)
    for error in sorted(set(crowd.errors))[:10]:
        print(error)
    return int(bool(crowd.errors or crowd.violations or crowd.fleets != FLEETS))


if __name__ == "__main__":
    sys.exit(main())
