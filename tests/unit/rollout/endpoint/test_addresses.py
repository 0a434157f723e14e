"""Where the endpoint listens, and what agents are told about it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import structlog

from rollout.config import EndpointConfig
from rollout.endpoint.addresses import bound_tcp, bound_unix, told_url
from runtime.settings import SettingsError


@pytest.mark.parametrize("listen", ["", "127.0.0.1", ":80", "127.0.0.1:http", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused(listen: str):
    with pytest.raises(SettingsError, match=r"endpoint\.listen = .*expected host:port"), bound_tcp(listen):
        pass


def test_an_address_in_use_is_named():
    with bound_tcp("127.0.0.1:0") as first:
        listen = f"127.0.0.1:{first.getsockname()[1]}"
        with pytest.raises(SettingsError, match=f"endpoint.listen = {listen}: cannot be bound"), bound_tcp(listen):
            pass


@pytest.mark.parametrize(("listen", "warned"), [("127.0.0.1:0", False), ("localhost:0", False), ("0.0.0.0:0", True)])
def test_warns_where_other_machines_can_come_in(listen: str, warned: bool):
    with structlog.testing.capture_logs() as logs, bound_tcp(listen):
        pass
    assert ["other machines can reach" in entry["event"] for entry in logs] == [True] * warned


def test_agents_are_told_an_address_that_leads_here():
    with bound_tcp("127.0.0.1:0") as bound:
        port = bound.getsockname()[1]
        assert told_url(EndpointConfig(), bound) == f"http://127.0.0.1:{port}/v1"
        for url in ("https://agents.example/a", "https://agents.example/a/", "https://agents.example/a/v1"):
            assert told_url(EndpointConfig(url=url), bound) == "https://agents.example/a/v1"
    with bound_tcp("0.0.0.0:0") as bound:
        assert told_url(EndpointConfig(), bound) == f"http://{socket.gethostname()}:{bound.getsockname()[1]}/v1"


def test_a_socket_whose_path_is_too_long_is_named(tmp_path: Path):
    with pytest.raises(SettingsError, match="longer than 107 bytes"), bound_unix(tmp_path / ("x" * 120)):
        pass


def test_a_socket_in_a_directory_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be bound"), bound_unix(tmp_path / "file" / "socket"):
        pass
