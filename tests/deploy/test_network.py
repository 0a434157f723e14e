"""Tests that hosts reach each other, that a cut drops packets and tells nobody, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.children import Child
from tests.deploy import network
from tests.deploy.network import Host, Network
from tests.tools.refuse import refuse

ECHO = """
import socket
server = socket.create_server(("", 5000))
print("listening", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
ASK = """
import pathlib, socket, sys, time
connection = socket.create_connection((sys.argv[1], 5000), timeout=30)
go = pathlib.Path(sys.argv[2])
for number in range(2):
    connection.sendall(b"%d" % number)
    print("answer", connection.recv(100).decode(), flush=True)
    while number == 0 and not go.exists():
        time.sleep(0.01)
"""
KILLED = """
import sys
from tests.deploy.network import Network
with Network() as net:
    host = net.host("one")
    print(host.namespace, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def permitted() -> None:
    if reason := network.refusal():
        refuse(reason)


def until(child: Child, words: str) -> None:
    deadline = time.monotonic() + 60
    while words not in child.log.read_text():
        assert child.exit_code() is None or words in child.log.read_text(), child.tail()
        assert time.monotonic() < deadline, child.tail()
        time.sleep(0.01)


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=10, check=True).stdout


def asking(one: Host, two: Host, directory: Path) -> Child:
    until(two.start("echo", [sys.executable, "-c", ECHO], directory / "echo.log"), "listening")
    return one.start("ask", [sys.executable, "-c", ASK, two.address, str(directory / "go")], directory / "ask.log")


def test_a_connection_outlives_a_cut(tmp_path: Path):
    with Network() as net:
        one, two = net.host("one"), net.host("two")
        ask = asking(one, two, tmp_path)
        until(ask, "answer 0")
        one.cut()
        (tmp_path / "go").touch()
        assert not ask.wait(time.monotonic() + 1.0)  # what it says now gets no answer, and no error
        assert "answer 1" not in ask.log.read_text()
        one.heal()
        until(ask, "answer 1")
        names = (one.namespace, two.namespace)
    assert not any(name in namespaces() for name in names)
    assert ask.exit_code() is not None


def test_a_host_may_take_an_address_that_is_free_again(tmp_path: Path):
    with Network() as net:
        one, two = net.host("one"), net.host("two", 99)
        two.remove()
        until(asking(one, net.host("three", 99), tmp_path), "answer 0")


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path):
    maker = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert maker.stdout is not None
    assert maker.stdin is not None
    left = maker.stdout.readline().strip()
    with Network():
        assert left in namespaces()  # its maker lives
    maker.send_signal(signal.SIGKILL)
    maker.wait(10)
    maker.stdin.close()
    maker.stdout.close()
    with Network():
        assert left not in namespaces()
