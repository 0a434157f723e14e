"""Tests of settings with which a gateway refuses to start, in one line with exit status 2, and of those it tolerates."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import redis

from learner.queue import EmbeddedRedis
from tests.service.fleet import RUN, TOKENS, Fleet, valid_group, write_settings
from tests.tools.refusals import refusals


def cases(url: str, taken: str) -> list[tuple[dict[str, Any], str]]:
    """Yields settings that cannot be used, and the message for each; ``taken`` is an address in use."""
    elsewhere = url.rpartition("@")[2]
    return [
        ({"listen": "nowhere"}, "listen = 'nowhere': expected host:port"),
        ({"listen": taken}, f"listen = {taken}: cannot be bound: Address already in use; stop the other"),
        ({"listen": "0.0.0.0:0"}, "listen = 0.0.0.0:0: other machines can reach it, and without [tls] they would send"),
        ({"listen": "0.0.0.0:0"}, "or insecure = true where the network itself is trusted"),
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
        ({"queue": {"url": url, "run": "newer"}}, "schema = '7': another release wrote this run's data"),
        ({"queue": {"url": f"redis://:wrong@{elsewhere}", "run": RUN}}, "refuses the credentials"),
    ]


def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, redis_server: EmbeddedRedis):
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.set("leeway:{newer}:schema", "7")
    with socket.create_server(("127.0.0.1", 0)) as other:
        tried = cases(redis_server.url, f"127.0.0.1:{other.getsockname()[1]}")
        files = [
            write_settings(tmp_path / str(number), redis_server.url, **changes)
            for number, (changes, _) in enumerate(tried)
        ]
        found = refusals("learner.gateway", [*files, Path("/nonexistent.json")])
    messages = [*(message for _, message in tried), "/nonexistent.json: no such configuration file"]
    for message, (status, text) in zip(messages, found, strict=True):
        assert status == 2, text
        (said,) = [row["event"] for row in map(json.loads, text.splitlines()) if row["level"] == "critical"]
        assert message in said


async def test_plain_text_on_a_trusted_network(start_gateway):
    gateway = await start_gateway(listen="0.0.0.0:0", insecure=True)
    async with Fleet(gateway.address.replace("0.0.0.0", "127.0.0.1"), TOKENS["alpha"]) as fleet:
        assert await fleet.outcomes([valid_group()]) == ["ACCEPTED"]
