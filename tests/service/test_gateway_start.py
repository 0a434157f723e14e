"""What a gateway cannot start with, said in one line with exit status 2; and what it starts with all the same."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from learner.queue import EmbeddedRedis
from tests.service.fleet import RUN, TOKENS, Fleet, GatewayProcess, valid_group


def start_and_fail(tmp_path: Path, redis_url: str, **changes: Any) -> str:
    """Runs a gateway that must exit with status 2 at once; what it said, one line."""
    gateway = GatewayProcess(tmp_path / "gateway", redis_url, **changes)
    try:
        assert gateway.child.process.wait(timeout=30) == 2, gateway.log()
    finally:
        gateway.child.kill()
    said = [row for row in map(json.loads, gateway.log().splitlines()) if row["level"] == "critical"]
    assert len(said) == 1, gateway.log()
    return said[0]["event"]


def test_a_port_in_use(tmp_path: Path, redis_server: EmbeddedRedis):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        said = start_and_fail(tmp_path, redis_server.url, listen=address)
    assert said.startswith(f"listen = {address}: cannot be bound: Address already in use; stop the other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listen": "nowhere"}, "listen = 'nowhere': expected host:port"),
        ({"identities_file": "/nonexistent/tokens.json"}, "identities_file = /nonexistent/tokens.json: No such file"),
        ({"flush_group": 3}, "unknown key 'flush_group' (value 3); did you mean 'flush_groups'?"),
        (
            {"tls": {"certificate": "/nonexistent.crt", "key": "/nonexistent.key"}},
            "tls: /nonexistent.crt: No such file or directory",
        ),
        (
            {"tls": {"certificate": __file__, "key": __file__}},
            f"tls.certificate = {__file__}, tls.key = {__file__}: cannot be used together",
        ),
        ({"max_unacked": 0}, "max_unacked = 0: Input should be greater than 0"),
        ({"queue": {"url": "http://x", "run": RUN}}, "queue.url = 'http://x': expected one of redis://"),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, redis_server: EmbeddedRedis, changes, message: str):
    assert message in start_and_fail(tmp_path, redis_server.url, **changes)


def test_a_run_of_another_schema(tmp_path: Path, redis_server: EmbeddedRedis):
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.set(f"leeway:{{{RUN}}}:schema", "7")
    assert "schema = '7': the run was written by a newer release" in start_and_fail(tmp_path, redis_server.url)


def test_a_wrong_redis_password(tmp_path: Path, redis_server: EmbeddedRedis):
    url = "redis://:wrong@" + redis_server.url.rpartition("@")[2]
    assert "refuses the credentials" in start_and_fail(tmp_path, url)


def test_without_a_file():
    command = [sys.executable, "-m", "learner.gateway"]
    for arguments, message in (
        ([], "usage:"),
        (["/nonexistent.json"], "/nonexistent.json: no such configuration file"),
    ):
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 2
        assert message in ended.stderr


def test_plain_text_that_others_could_read(tmp_path: Path, redis_server: EmbeddedRedis):
    said = start_and_fail(tmp_path, redis_server.url, listen="0.0.0.0:0")
    assert "listen = 0.0.0.0:0: other machines can reach it, and without [tls]" in said
    assert "insecure = true" in said


async def test_plain_text_on_a_trusted_network(start_gateway):
    gateway = await start_gateway(listen="0.0.0.0:0", insecure=True)
    async with Fleet(gateway.address.replace("0.0.0.0", "127.0.0.1"), TOKENS["alpha"]) as fleet:
        assert await fleet.outcomes([valid_group()]) == ["ACCEPTED"]
