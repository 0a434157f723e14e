"""`leeway doctor` on a real Redis: every planted fault is found, a healthy server passes, and nothing is changed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from learner.cli.doctor import Finding, examine
from learner.config import QueueConfig
from learner.queue import EmbeddedRedis
from learner.queue.acl import COMMANDS, rule
from learner.queue.embedded import bundled_server
from learner.queue.schema import SCHEMA
from learner.queue.server_inspection import inspect_server
from tests.service.fleet import RUN
from tests.service.servers import RedisProcess, free_port

Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Examines a gateway's file with this queue; returns the worst finding of each check of Redis."""

    def about(url: str, **settings: Any) -> dict[str, Finding]:
        identities = tmp_path / "identities.json"
        identities.write_text(json.dumps({"a": {"tokens": ["0" * 64]}}))
        values = {
            "listen": "127.0.0.1:0",
            "identities_file": str(identities),
            "queue": {"url": url, "run": RUN, **settings.pop("queue", {})},
            "limits": {"vocab_size": 13},
            "admission": {"max_queued_bytes": 1_000_000},
            **settings,
        }
        (tmp_path / "gateway.json").write_text(json.dumps(values))
        worst: dict[str, Finding] = {}
        for finding in examine(tmp_path / "gateway.json"):
            order = ("ok", "warn", "fail")
            if order.index(finding.state) >= order.index(worst.get(finding.check, finding).state):
                worst[finding.check] = finding
        return {name: one for name, one in worst.items() if name.startswith("redis") or name == "clock"}

    return about


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., redis.Redis]]:
    """Starts a redis-server with settings; returns a client of it."""
    started: list[RedisProcess] = []

    def start(**settings: Any) -> redis.Redis:
        lines = {name.replace("_", "-"): value for name, value in settings.items()}
        directory = tmp_path / f"redis-{len(started)}"
        started.append(RedisProcess(directory, bundled_server(), {"port": free_port(), **lines}).ready())
        return started[-1].client()

    yield start
    for process in started:
        process.child.kill()


def url_of(client: redis.Redis) -> str:
    return f"redis://127.0.0.1:{client.connection_pool.connection_kwargs['port']}/0"


def states(found: dict[str, Finding]) -> dict[str, str]:
    return {name: one.state for name, one in found.items()}


def test_a_sound_redis(any_redis: EmbeddedRedis, look: Look):
    with redis.Redis.from_url(any_redis.url) as admin:
        admin.config_set("maxmemory", "100mb")
        before = admin.dbsize()
        found = look(any_redis.url)
        assert admin.dbsize() == before
    assert states(found) == dict.fromkeys(("redis", "redis file", "redis memory", "redis rights", "clock"), "ok")
    assert found["redis file"].found == "append-only, always"
    assert re.match(r"(Valkey|Redis) \d+\.\d+\.\d+, ", found["redis"].found)


def test_one_that_is_not_there_and_a_wrong_password(any_redis: EmbeddedRedis, look: Look):
    assert "not available" in look("redis://127.0.0.1:1/0")["redis"].found
    wrong = "redis://:wrong@" + any_redis.url.rpartition("@")[2]
    assert "refuses the credentials" in look(wrong)["redis"].found


def test_one_that_forgets(served: Callable[..., redis.Redis], look: Look):
    with served(appendonly="no", maxmemory="50mb", maxmemory_policy="allkeys-lru") as client:
        found = look(url_of(client))
        assert states(found)["redis file"] == states(found)["redis memory"] == "fail"
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "no")
        client.config_set("maxmemory-policy", "noeviction")
        found = look(url_of(client))
        assert (states(found)["redis file"], states(found)["redis memory"]) == ("warn", "ok")


def test_less_memory_than_the_backlog_may_take(served: Callable[..., redis.Redis], look: Look):
    with served(maxmemory="50mb") as client:
        found = look(url_of(client), admission={"max_queued_bytes": 60_000_000})["redis memory"]
    assert found.state == "warn"
    assert "60.0 MB does not fit into 52.4 MB" in found.found


def test_rights_that_are_missing_are_named_and_ours_are_enough(any_redis: EmbeddedRedis, look: Look):
    user = "redis://leeway:pw@" + any_redis.url.rpartition("@")[2]
    with redis.Redis.from_url(any_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", *rule("leeway", "pw"))
        found = look(user)
        assert states(found)["redis rights"] == "ok"
        assert "may not read appendfsync" in found["redis file"].found
        for command in COMMANDS:
            if command in ("ping", "select"):  # without these nobody comes in
                continue
            admin.execute_command("ACL", "SETUSER", "leeway", f"-{command.partition('|')[0]}")
            refused = inspect_server(QueueConfig(url=user, run=RUN)).refused
            assert refused == (command,), command
            admin.execute_command("ACL", "SETUSER", "leeway", f"+{command}")
        admin.execute_command("ACL", "SETUSER", "leeway", "-xautoclaim")
        assert look(user)["redis rights"].found == "this user may not: xautoclaim"


def test_newer_data_a_replica_and_a_clock_that_is_wrong(
    served: Callable[..., redis.Redis], look: Look, monkeypatch: pytest.MonkeyPatch
):
    with served(maxmemory="50mb") as client:
        client.set(f"leeway:{{{RUN}}}:schema", "9")
        assert f"schema 9; this release reads schema {SCHEMA} only" in look(url_of(client))["redis"].found
        with served(
            maxmemory="50mb", replicaof=f"127.0.0.1 {url_of(client).rpartition(':')[2].partition('/')[0]}"
        ) as two:
            found = look(url_of(two))
            assert "role is slave" in found["redis"].found
            assert "takes no write" in found["redis rights"].found
        real = time.time
        monkeypatch.setattr("learner.queue.server_inspection.time.time", lambda: real() - 30)
        skewed = look(url_of(client))["clock"]
    assert skewed.state == "warn"
    assert "+30.0 s from ours" in skewed.found
