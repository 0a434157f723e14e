"""The command and environment of an SGLang server, without starting one."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from rollout.config import EngineConfig
from rollout.engine import server_process
from rollout.engine.adapters import AdapterLimits
from rollout.engine.server_process import PortInUseError, Server


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """(name, command, log, environment) of every child process that would have been started."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(server_process, "Child", lambda *arguments: calls.append(arguments))
    return calls


@pytest.fixture
def free(unused_tcp_port: int) -> int:
    return unused_tcp_port


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_server_runs_under_the_guard_with_flags_for_its_device(
    started: list[tuple[Any, ...]], free: int, tmp_path: Path, device: str
):
    config = EngineConfig.parse({"base_port": free, "device": device, "arguments": ["--tp", "1"]}, source="test")
    Server(config, 0, tmp_path, tmp_path / "log")
    ((name, command, log, environment),) = started
    assert (name, log) == ("engine-0", tmp_path / "log")
    assert command[:3] == [sys.executable, "-S", "-E"]
    guard = Path(command[3])
    assert guard.is_file()
    assert guard.name == "parent_death_guard.py"
    assert command[4:8] == [str(os.getpid()), sys.executable, "-m", "sglang.launch_server"]
    assert command[command.index("--port") + 1] == str(free)
    assert command[-2:] == ["--tp", "1"]
    assert ("torch_native" in command) == (device == "cpu")
    if device == "cpu":
        assert (Path(environment["PYTHONPATH"]) / "sgl_kernel" / "__init__.py").is_file()
    assert (environment.get("TORCH_COMPILE_DISABLE") == "1") == (device == "cpu")  # it would need the real triton


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_server_is_prepared_for_the_adapters_of_the_run(
    started: list[tuple[Any, ...]], free: int, tmp_path: Path, device: str
):
    config = EngineConfig.parse({"base_port": free, "device": device}, source="test")
    Server(config, 0, tmp_path, tmp_path / "log", AdapterLimits(8, ("q_proj", "v_proj")))
    flags = started[0][1]
    first = flags.index("--enable-lora")
    expected = ["--enable-lora", "--max-lora-rank", "8", "--lora-target-modules", "q_proj", "v_proj"]
    assert flags[first : first + len(expected)] == expected
    assert ("--lora-backend" in flags) == (device == "cpu")


@pytest.mark.parametrize("refit", ["in_place", "retract", "drain"])
def test_only_in_place_refits_do_without_the_prefix_cache(
    started: list[tuple[Any, ...]], free: int, tmp_path: Path, refit: str
):
    config = EngineConfig.parse({"base_port": free, "refit": refit}, source="test")
    Server(config, 0, tmp_path, tmp_path / "log")
    assert ("--disable-radix-cache" in started[0][1]) == (refit == "in_place")


@pytest.mark.parametrize("asked", [True, False])
def test_servers_that_are_asked_for_experts_are_started_to_keep_them(
    started: list[tuple[Any, ...]], free: int, tmp_path: Path, asked: bool
):
    config = EngineConfig.parse({"base_port": free, "return_routed_experts": asked}, source="test")
    Server(config, 0, tmp_path, tmp_path / "log")
    assert ("--enable-return-routed-experts" in started[0][1]) == asked


def test_a_taken_port_is_named(started: list[tuple[Any, ...]], free: int, tmp_path: Path):
    with socket.create_server(("127.0.0.1", free)):
        config = EngineConfig.parse({"base_port": free - 1}, source="test")
        with pytest.raises(PortInUseError, match=rf"port {free} on 127\.0\.0\.1 is in use .*: stop what listens there"):
            Server(config, 1, tmp_path, tmp_path / "log")
    assert started == []
