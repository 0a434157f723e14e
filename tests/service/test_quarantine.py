"""Tests that rejected groups are kept in Redis, shown to the operator, and replayed into the queue."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from learner.cli.operate.quarantine import quarantine
from learner.config import LimitsConfig, QueueConfig
from learner.gateway.quarantine_replay import replay
from learner.queue import EmbeddedRedis, QueueError
from learner.queue.quarantine import Quarantine, Quarantined
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import RUN, VOCABULARY, tokens, valid_group
from tests.service.queueing import client, ledger


def too_hot() -> pb.Group:
    return valid_group(temperature=-1.0)


def unknown_token(token: int = VOCABULARY + 5) -> pb.Group:
    group = valid_group()
    group.responses[0].tokens = tokens([7, token, 7, 7])
    return group


@pytest.fixture
async def config(redis_server: EmbeddedRedis, start_gateway: Any) -> QueueConfig:
    """Settings of a run whose fleet has sent two bad groups, one with an unknown token and one too large to be kept."""
    gateway = await start_gateway()
    large = valid_group(length=20_000, temperature=-1.0)
    async with gateway.connect() as fleet:
        assert await fleet.outcomes([too_hot(), unknown_token(), large]) == ["REJECTED"] * 3
    return QueueConfig(url=redis_server.url, run=RUN)


async def test_entries_say_why(config: QueueConfig):
    with Quarantine(config) as kept:
        large, token, hot = kept.entries()  # newest first
    assert (hot.fleet, hot.reason, hot.field) == ("alpha", "temperature", "temperature")
    assert (token.reason, token.field) == ("token_out_of_vocabulary", "responses[0].tokens[1]")
    assert pb.Group.FromString(hot.payload or b"").group_id == hot.group_id
    assert large.payload is None
    assert len({large.key, token.key, hot.key}) == 3


async def test_replay_takes_what_is_valid_now_and_says_why_the_rest_stays(config: QueueConfig):
    with Quarantine(config) as kept:
        large, token, hot = kept.entries()
        fates = dict(await replay(config, LimitsConfig(vocab_size=VOCABULARY + 10), kept.entries()))
        assert fates[token.key] == "accepted"
        assert fates[hot.key].startswith("stays: temperature: temperature = -1.0")
        assert "too large" in fates[large.key]
        assert [entry.key for entry in kept.entries()] == [large.key, hot.key]
    account = ledger(config)
    assert (account.received, account.rejected, account.accepted, account.queued) == (4, 3, 1, 1)
    # Replayed again (as after a death between append and removal), it is a duplicate.
    assert await replay(config, LimitsConfig(vocab_size=VOCABULARY + 10), [token]) == [(token.key, "duplicate")]
    assert ledger(config).duplicate == 1


async def test_purge_and_what_nobody_can_read(config: QueueConfig):
    with Quarantine(config) as kept:
        assert kept.remove(kept.entries()[:1]) == 1
        assert len(kept.entries()) == 2
        with client(config) as raw:
            raw.lpush(f"leeway:{{{RUN}}}:quarantine", "nonsense")
        with pytest.raises(QueueError, match="purge it"):
            kept.entries()
        assert kept.purge() == 3
        assert kept.entries() == []


def command(monkeypatch: pytest.MonkeyPatch, config: QueueConfig, run: Path, *arguments: str) -> tuple[int, str]:
    """Runs `leeway quarantine` with the test's queue and limits."""
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("learner.cli.operate.local_run.queue_of", lambda _: contextlib.nullcontext(config))
        patch.setattr("learner.cli.operate.local_run.limits_of", lambda _: LimitsConfig(vocab_size=VOCABULARY + 10))
        name, *rest = arguments
        result = CliRunner().invoke(quarantine, [name, str(run), *rest])
    return result.exit_code, result.output


async def test_the_commands(config: QueueConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def leeway(*arguments: str) -> tuple[int, str]:
        return await asyncio.to_thread(command, monkeypatch, config, tmp_path / "run", *arguments)

    code, output = await leeway("list", "--json")
    large, token, hot = json.loads(output)
    assert (code, large["group"], hot["reason"], len(token["group"]["responses"])) == (0, None, "temperature", 2)
    assert "not kept" in (await leeway("list"))[1]
    code, output = await leeway("show", token["key"])
    assert json.loads(output)[0]["group"]["responses"][0]["first_tokens"] == [7, VOCABULARY + 5, 7, 7]
    assert (await leeway("show", "nobody"))[0] == 2
    code, output = await leeway("replay", token["key"], hot["group_id"])
    assert (code, output.splitlines()[-1]) == (1, "1 submitted, 1 stay in quarantine")
    assert f"{token['key']} accepted" in output
    assert (await leeway("purge", "--fleet", "beta"))[1] == "0 deleted\n"
    assert (await leeway("purge"))[1] == "2 deleted\n"
    assert (await leeway("list"))[1] == "no group is in quarantine\n"


async def test_replay_refuses_what_may_have_been_trained_before(config: QueueConfig):
    """A valid group that was rejected because its id is no longer remembered: nobody knows what became of it."""
    payload = valid_group().SerializeToString()
    entry = Quarantined("k", "alpha", 1.0, "an id", "id_too_old", "group_id", "", payload, b"")
    ((_, fate),) = await replay(config, LimitsConfig(vocab_size=VOCABULARY), [entry])
    assert fate.startswith("stays: id_too_old: it may have been accepted and trained before")
