"""The worker as a process: exit codes and messages for what cannot work, and no server left behind whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rollout.data.demo_model import DemoShape, write_model
from tests.tools.fleet_peers import TOKEN, ScriptedGateway, until
from tests.tools.refusals import refusals

GUARD = Path("rollout/engine/parent_death_guard.py").resolve()
# A server with a child of its own that ignores polite requests; it writes both process ids.
SERVER = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + ".tmp", "w").write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(0 if sys.argv[2] == "end" else 600)
"""


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def pids_of(path: Path) -> list[int]:
    wait_for(path.exists, "server")
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_and_its_children_die_with_the_worker(tmp_path: Path, how: signal.Signals):
    worker = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {str(GUARD)!r}, str(os.getpid()), sys.executable, '-c', {SERVER!r}, "
        f"{str(tmp_path / 'pids')!r}, 'stay'], start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", worker])
    pids = pids_of(tmp_path / "pids")
    assert all(map(alive, pids))
    process.send_signal(how)
    process.wait(60)
    wait_for(lambda: not any(map(alive, pids)), "end of the server's processes")


def test_a_servers_children_die_with_the_server_and_its_exit_code_is_logged(tmp_path: Path):
    log = tmp_path / "log"
    command = [
        sys.executable,
        str(GUARD),
        str(os.getpid()),
        sys.executable,
        "-c",
        SERVER,
        str(tmp_path / "pids"),
        "end",
    ]
    with log.open("w") as file:
        guard = subprocess.Popen(command, start_new_session=True, stderr=file)
    assert guard.wait(60) == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, pids_of(tmp_path / "pids"))), "end of the server's processes")
    assert "ended with exit code 0" in log.read_text()


class Setup:
    """A worker's configuration file, with all it names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        write_model(directory / "model", 0, DemoShape(layers=1, hidden=32, ffn=32))
        (directory / "token").write_text(TOKEN)

    def write(self, file: str = "worker", **changes: Any) -> Path:
        names = {"token_file": "token", "model": "model", "state_dir": "state", "log_dir": "logs"}
        allowed = [(self.directory / "weights").as_uri()]
        paths = {key: str(self.directory / name) for key, name in names.items()}
        values = {"gateway": "127.0.0.1:1", "allowed_uris": allowed, **paths}
        path = self.directory / f"{file}.json"
        path.write_text(json.dumps({**values, **changes}))
        return path

    def run(self, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "rollout", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


UNUSABLE = [
    ({"gatewy": "x"}, "unknown key 'gatewy' (value 'x'); did you mean 'gateway'?"),
    ({"model": "/no/such/model"}, "model = /no/such/model: no tokenizer.json there"),
    ({"token_file": "/no/such/token"}, "token_file = /no/such/token: No such file"),
    ({"task": {"name": "srot"}}, "task.name = 'srot': not one of sort, add, sumto, gsm8k"),
    ({"task": {"name": "gsm8k"}}, "task.options.path = '': no such file"),
    (
        {"task": {"options": {"digits": 0}}},
        "task.options = {'digits': 0}: sort does not take them: ValueError: digits = 0",
    ),
]


async def test_a_configuration_that_cannot_be_used_is_one_clear_line(setup: Setup):
    gateway = await ScriptedGateway().start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = [
            *UNUSABLE,
            (
                {"gateway": gateway.address, "sampling": {"responses": 129}},
                f"the gateway at {gateway.address} would reject this worker's groups: sampling.responses = 129: set it",
            ),
            ({"gateway": gateway.address, "engine": {"base_port": port}}, f"port {port} on 127.0.0.1 is in use"),
        ]
        files = [setup.write(f"case-{number}", **changes) for number, (changes, _) in enumerate(cases)]
        found = await asyncio.to_thread(refusals, "rollout", files)
    await gateway.stop()
    for (_, message), (code, text) in zip(cases, found, strict=True):
        assert code == 2, text
        (said,) = [row["event"] for row in map(json.loads, text.splitlines()) if row["level"] == "critical"]
        assert message in said


async def test_a_wrong_token_ends_the_worker_with_a_code_of_its_own(setup: Setup):
    gateway = await ScriptedGateway().start()
    gateway.run.vocab_size = 16
    (setup.directory / "token").write_text("wrong")
    names = {"name": "worker-7", "run": "demo-1", "fleet": "tokyo"}
    path = setup.write(gateway=gateway.address, engine={"urls": ["http://127.0.0.1:1"]}, **names)
    code, text = await asyncio.to_thread(setup.run, str(path))
    await gateway.stop()
    assert code == 3
    rows = [json.loads(line) for line in text.splitlines()]  # a collector can parse every line
    assert {(row["process"], row["run"], row["fleet"]) for row in rows} == {("worker-7", "demo-1", "tokyo")}
    assert "the gateway refuses the credentials: unknown token" in text
    assert "Traceback" not in text


async def test_sigterm_ends_a_worker_in_the_midst_of_a_call(setup: Setup):
    gateway = await ScriptedGateway().start()  # it has nothing to announce: the watch would go on for 300 s
    path = setup.write(gateway=gateway.address, engine={"urls": ["http://127.0.0.1:1"]})
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "rollout", str(path), stderr=subprocess.PIPE)
    try:
        await until(lambda: bool(gateway.known), "watch of the versions")
        process.terminate()
        _, said = await asyncio.wait_for(process.communicate(), timeout=60)
    finally:
        if process.returncode is None:
            process.kill()
        await gateway.stop()
    assert process.returncode == 0
    assert b"Traceback" not in said


def test_demonstrations_are_solved_prompts_and_other_ones_than_the_workers(setup: Setup):
    out = setup.directory / "demonstrations.jsonl"
    arguments = ["demonstrations", str(setup.write(seed=3)), "--count", "20", "--seed", "3", "--out", str(out)]
    assert setup.run(*arguments)[0] == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 20
    for row in rows:
        assert (row["prompt"][0], row["prompt"][-1], len(row["prompt"])) == (14, 11, 8)
        assert row["response"] == [*sorted(row["prompt"][1:-1]), 12]
    from rollout.tasks import load_task

    own = [load_task("sort", 3, {}).prompt(index).text for index in range(20)]
    assert own != ["".join(map(str, row["prompt"][1:-1])) + "=" for row in rows]
