"""The status endpoint: what it answers, to whom, and what it costs nobody."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from runtime.settings import SettingsError
from runtime.status import Check, Heartbeat, Status
from tests.tools.scrape import probe

Start = Callable[..., Status]


def fine() -> str | None:
    return None


def get(status: Status, path: str) -> tuple[int, str]:
    return probe(status.address, path)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts endpoints on free ports; closes them at the end."""
    monkeypatch.setattr("runtime.status._POLL_S", 0.01)
    started: list[Status] = []

    def start_one(alive: Check = fine, ready: Check = fine, listen: str | None = "127.0.0.1:0") -> Status:
        registry = CollectorRegistry()
        Counter("leeway_test_things", "Things.", registry=registry).inc(3)
        started.append(Status.start(listen, registry, alive, ready))
        return started[-1]

    yield start_one
    for status in started:
        status.close()


def test_metrics_are_shown_with_those_of_the_process(start: Start):
    code, text = get(start(), "/metrics?name=all")
    assert code == 200
    assert "leeway_test_things_total 3.0" in text
    assert "process_resident_memory_bytes" in text


def test_probes_answer_200_or_503_with_the_complaint(start: Start):
    complaints: list[str | None] = [None]
    status = start(alive=lambda: complaints[0], ready=lambda: "no engine serves version 3 yet")
    assert get(status, "/healthz") == (200, "ok\n")
    assert get(status, "/readyz") == (503, "no engine serves version 3 yet\n")
    complaints[0] = "the event loop: nothing has moved for 31 s"
    assert get(status, "/healthz") == (503, "the event loop: nothing has moved for 31 s\n")
    assert get(status, "/secrets")[0] == 404


def test_callers_that_say_nothing_do_not_keep_others_out(start: Start):
    status = start()
    host, port = status.address.split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(3)]
    assert get(status, "/healthz")[0] == 200
    for one in silent:
        one.close()


def test_two_hundred_half_open_requests_keep_no_probe_out(start: Start):
    status = start()
    host, port = status.address.split(":")
    silent = []
    for _ in range(200):
        silent.append(socket.create_connection((host, int(port)), timeout=30))
        silent[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
    assert get(status, "/healthz") == (200, "ok\n")
    assert silent[0].recv(1) == b""  # the oldest has been sent away
    for one in silent:
        one.close()


def test_a_metric_that_fails_is_logged_and_the_endpoint_goes_on(capsys: pytest.CaptureFixture[str]):
    registry = CollectorRegistry()
    Gauge("leeway_test_broken", "Broken.", registry=registry).set_function(lambda: 1 / 0)
    status = Status.start("127.0.0.1:0", registry, fine, fine)
    with pytest.raises(OSError):
        get(status, "/metrics")
    assert get(status, "/healthz")[0] == 200
    status.close()
    assert "the status endpoint failed" in "".join(capsys.readouterr())


@pytest.mark.parametrize("listen", ["9101", "127.0.0.1:", ":9101", "127.0.0.1:70000", "nobody.invalid:9101"])
def test_what_is_no_address_is_named(start: Start, listen: str):
    with pytest.raises(SettingsError, match=r"status\.listen"):
        start(listen=listen)


def test_a_port_in_use_is_named_with_what_to_do(start: Start):
    taken = start().address
    with pytest.raises(SettingsError, match=rf"status.listen = {taken}: cannot be bound: Address already in use; stop"):
        start(listen=taken)


def test_a_rank_listens_above_the_first_port(start: Start):
    first = start()
    port = int(first.address.split(":")[1])
    base = f"127.0.0.1:{port - 1}"
    with pytest.raises(SettingsError, match=rf"status.listen = {base} \(port {port}: \+ 1\)"):
        Status.start(base, CollectorRegistry(), fine, fine, offset=1)


def test_nothing_listens_where_none_is_configured(start: Start):
    assert start(listen=None).address == ""


async def test_a_heartbeat_complains_of_silence_and_only_after_the_first_beat(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("runtime.status.time.monotonic", lambda: now[0])
    heart = Heartbeat("the event loop", 30.0)
    now[0] = 1000.0
    assert heart.problem() is None
    beating = asyncio.create_task(heart.beat_with_loop())
    await asyncio.sleep(0)
    now[0] += 29
    assert heart.problem() is None
    now[0] += 2
    assert heart.problem() == "the event loop: nothing has moved for 31 s (limit 30 s)"
    beating.cancel()
