"""The command `python -m rollout replay`: submits recorded groups to a gateway, as a fleet does."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from leeway.v1 import rollout_pb2
from rollout.client.client import SubmitClient
from rollout.client.credentials import Credentials
from rollout.client.recorded import group_of
from rollout.config.tls import ClientTlsConfig
from runtime.errors import LeewayError
from runtime.rollout_files import RecordReader
from runtime.rollout_record import RecordedGroup, RecordError
from runtime.settings import SettingsError

_AT_ONCE = 32  # groups that wait for their acks
_SHOWN = 10  # groups that were not taken, named one by one


class ReplayError(LeewayError):
    """Not every recorded group was taken. The message says how many, and why."""


@dataclass
class ReplayResult:
    """What became of recorded groups.

    Attributes:
        acks: how many were acknowledged, by outcome in lower case, of those not taken with the reason: "rejected: too_stale".
        examples: of such an outcome, the first group and what was wrong with it.
        unusable: why groups were not submitted, one text each.
        waiting: how many had no ack when the time was over.
    """

    acks: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)
    waiting: int = 0

    def count(self, ack: rollout_pb2.Ack) -> None:
        """Counts a final ack."""
        outcome = rollout_pb2.Outcome.Name(ack.outcome).removeprefix("OUTCOME_").lower()
        name = f"{outcome}: {ack.reason}" if ack.reason else outcome
        self.acks[name] += 1
        if ack.reason:
            self.examples.setdefault(
                name, f"such as {ack.group_id}" + (f": {ack.field} = {ack.value}" if ack.field else "")
            )

    @property
    def taken(self) -> int:
        """Number of groups that the service has: accepted now, or before."""
        return self.acks["accepted"] + self.acks["duplicate"]

    @property
    def lines(self) -> Iterator[str]:
        """What a person reads of it."""
        for name, count in sorted(self.acks.items()):
            example = self.examples.get(name)
            yield f"{count} {name}" + (f", {example}" if example else "")
        if self.unusable:
            yield f"{len(self.unusable)} not submitted"
            yield from (f"  {why}" for why in self.unusable[:_SHOWN])
        if len(self.unusable) > _SHOWN:
            yield f"  and {len(self.unusable) - _SHOWN} more"
        if self.waiting:
            yield f"{self.waiting} without an ack when the time was over; submit them again under their old ids"


async def replay(client: SubmitClient, file: Path, new_ids: bool, limit_s: float) -> ReplayResult:
    """Submits the groups of a file, some at a time, and waits for their acks.

    Args:
        client: the fleet's connection.
        file: recorded groups, JSON lines.
        new_ids: as new groups, not under their old ids.
        limit_s: seconds after which it gives up.

    Raises:
        AuthError: the credentials are refused.
        OSError: the file cannot be read.
    """
    result = ReplayResult()
    groups = _groups(file, new_ids, result)
    under_way = 0

    async def submit_in_turn() -> None:
        nonlocal under_way
        for group in groups:
            under_way += 1
            ack = await client.submit(group)
            under_way -= 1
            result.count(ack)

    try:
        async with asyncio.timeout(limit_s), asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(submit_in_turn())
    except TimeoutError:
        result.waiting = under_way + sum(1 for _ in groups)
    return result


def _groups(file: Path, new_ids: bool, result: ReplayResult) -> Iterator[rollout_pb2.Group]:
    for number, line in enumerate(RecordReader(file).lines(), 1):
        try:
            group = group_of(RecordedGroup.parse(line), new_ids)
        except (RecordError, ValueError, OverflowError) as error:  # numbers that no message can hold
            result.unusable.append(f"line {number}: {error}")
            continue
        yield group


def main(arguments: list[str]) -> None:
    """Runs the command.

    Raises:
        ReplayError: not every group was taken.
        SettingsError: an option cannot be used.
        AuthError: the credentials are refused.
        OSError: the file cannot be read.
    """
    parser = argparse.ArgumentParser(prog="python -m rollout replay", description="Submits recorded groups as a fleet.")
    parser.add_argument(
        "file", type=Path, help="JSON lines, as workers record them and `leeway rollouts export` writes them"
    )
    parser.add_argument("--gateway", required=True, help="host:port")
    parser.add_argument("--token-file", type=Path, help="file with the fleet's token")
    parser.add_argument("--tls", type=Path, help="TOML or JSON file with ca, certificate, key, server_name")
    parser.add_argument("--new-ids", action="store_true", help="as new groups; default: under their old ids")
    parser.add_argument("--timeout-s", type=float, default=600.0, help="seconds after which it gives up")
    options = parser.parse_args(arguments)
    tls = None if options.tls is None else ClientTlsConfig.load(options.tls)
    if not options.file.is_file():
        raise SettingsError(f"{options.file}: no such file")
    result = asyncio.run(
        _run(
            options.gateway,
            Credentials(tls=tls, token_file=options.token_file),
            options.file,
            options.new_ids,
            options.timeout_s,
        )
    )
    for line in result.lines:
        sys.stdout.write(f"{line}\n")
    missing = sum(result.acks.values()) - result.taken + len(result.unusable) + result.waiting
    if missing:
        raise ReplayError(f"{missing} of {missing + result.taken} groups were not taken")


async def _run(gateway: str, credentials: Credentials, file: Path, new_ids: bool, limit_s: float) -> ReplayResult:
    async with SubmitClient(gateway, credentials, "replay") as client:
        return await replay(client, file, new_ids, limit_s)
