"""A fleet's process for the chaos tests: `python -m tests.chaos.producer FILE.json`, killed and started again at any time.

Its log is the truth the whole check stands on: a group's id is in it, and on disk, before the group is sent, and its ack
after it came. What was sent and has no ack is sent again, same id and same content, by the process that comes after.
Once the stop file is there it makes no more groups, waits for every ack and ends with status 0.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from leeway.v1 import rollout_pb2 as pb
from rollout.client import Credentials, SubmitClient, encode_ids, new_group_id
from rollout.config import ClientTlsConfig
from runtime import logs
from runtime.children import die_with_parent
from runtime.settings import Settings


class ProducerConfig(Settings):
    """Settings of one producer."""

    name: str
    address: str
    token: str
    tls: ClientTlsConfig | None = None
    log: Path
    leased: bool  # generates what its leases allow; else paced by per_s alone
    per_s: float  # groups a second, at most
    stop: Path
    total: int | None = None  # makes so many groups in this life; then as after a stop
    batch: int = 4  # groups made, logged and sent together; a divisor of total
    vocab_size: int = 16
    responses: int = 4
    lengths: tuple[int, int] = (2, 8)  # tokens of a response, uniformly


class Log:
    """Records groups made and acks received, as JSON lines; each write is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.unacked: dict[str, int] = {}  # id -> version
        with path.open("a+b") as file:
            file.seek(0)
            whole, newline, _ = file.read().rpartition(b"\n")  # a killed process leaves half a line
            file.truncate(len(whole) + len(newline))
        for line in whole.splitlines():
            row = json.loads(line)
            if row["kind"] == "made":
                self.unacked[row["id"]] = row["version"]
            elif row["kind"] == "ack":
                self.unacked.pop(row["id"], None)
        self._file = path.open("ab")

    def write(self, *rows: dict[str, Any]) -> None:
        """Appends rows with the time added."""
        now = round(time.time(), 4)
        self._file.write(b"".join(json.dumps({"time": now, **row}).encode() + b"\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())


def make_group(config: ProducerConfig, group_id: str, version: int) -> pb.Group:
    """Makes the group of an id: always the same content, whichever process makes it."""
    draw = random.Random(group_id)
    responses = []
    for _ in range(config.responses):
        length = draw.randint(*config.lengths)
        responses.append(
            pb.Response(
                tokens=encode_ids([draw.randrange(config.vocab_size) for _ in range(length)]),
                reward=float(draw.randint(0, 1)),
                finish_reason=pb.FINISH_REASON_STOP,
                spans=[pb.Span(version=version, start=0, end=length)],
            )
        )
    prompt = encode_ids([draw.randrange(config.vocab_size) for _ in range(4)])
    return pb.Group(
        group_id=group_id, prompt_id="p", prompt_tokens=prompt, task="chaos", responses=responses, temperature=1.0
    )


class Producer:
    """Makes groups of the current version and delivers them."""

    def __init__(self, config: ProducerConfig, client: SubmitClient) -> None:
        self._config = config
        self._client = client
        self._log = Log(config.log)
        self._made = 0
        self._version: int | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Makes and delivers groups; returns after a stop, once every group has its ack."""
        self._log.write({"kind": "start"})
        for group_id, version in list(self._log.unacked.items()):
            self._send(group_id, version, "")
        tasks = [asyncio.create_task(work) for work in (self._stopped(), self._watch(), self._make())]
        done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for task in done:
            task.result()
        await asyncio.gather(*self._sending)

    async def _stopped(self) -> None:
        while not self._config.stop.exists() and self._made != self._config.total:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.05)

    async def _watch(self) -> None:
        async for policy in self._client.watch_policy():
            self._version = policy.version

    async def _make(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._config.batch / self._config.per_s, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._version is None or len(self._sending) > 256 or self._made == self._config.total:
                continue
            lease_id, count = "", self._config.batch
            if self._config.leased:
                self._log.write({"kind": "ask"})
                lease = await self._client.lease(count, self._version)
                self._log.write({"kind": "lease", "groups": lease.groups})
                lease_id, count = lease.lease_id, lease.groups
                if not count:
                    await asyncio.sleep(lease.retry_after_ms / 1000)
            version = self._version
            ids = [new_group_id() for _ in range(count)]
            self._log.write(*({"kind": "made", "id": id_, "version": version, "lease": lease_id} for id_ in ids))
            for group_id in ids:
                self._send(group_id, version, lease_id)
            self._made += count

    def _send(self, group_id: str, version: int, lease_id: str) -> None:
        task = asyncio.create_task(self._deliver(group_id, version, lease_id))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _deliver(self, group_id: str, version: int, lease_id: str) -> None:
        ack = await self._client.submit(make_group(self._config, group_id, version), lease_id)
        outcome = pb.Outcome.Name(ack.outcome).removeprefix("OUTCOME_")
        self._log.write({"kind": "ack", "id": group_id, "outcome": outcome, "reason": ack.reason})


async def main(config: ProducerConfig) -> None:
    """Runs until it is stopped."""
    shown = Credentials(config.token, config.tls)
    async with SubmitClient(config.address, shown, config.name, in_flight=128, timeout_s=3.0) as client:
        await Producer(config, client).run()


if __name__ == "__main__":
    die_with_parent()
    settings = ProducerConfig.load(Path(sys.argv[1]))
    logs.configure(settings.name)
    asyncio.run(main(settings))
