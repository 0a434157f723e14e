"""Hosts on one switch, made of Linux network namespaces: each with its own address, ports and loopback, one file system.

The switch is a bridge in a namespace of its own, so nothing appears among the machine's own interfaces, and names are drawn
anew for each network: several may exist at once. Needs root and the `ip` command; ``refusal`` says why it cannot be had.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from runtime.children import Child
from tests.tools.refuse import missing

_SUBNET = "10.231.0"
_LIMIT_S = 20.0
_MADE_BY = re.compile(r"lw-(\d+)-[0-9a-f]+-")


class NetworkError(Exception):
    """The machine does not let us make namespaces, or a command about them failed."""


def refusal() -> str | None:
    """Why namespaces cannot be made on this machine; None when they can."""
    if absent := missing("ip"):
        return absent
    try:
        with Network() as network:
            network.host("try")
    except NetworkError as error:
        return str(error)
    return None


def sweep() -> None:
    """Removes networks whose makers were killed; what ran there died with them, or dies now. Never raises."""
    with contextlib.suppress(NetworkError):
        for namespace in _ip("netns", "list").split():
            maker = _MADE_BY.match(namespace)
            if maker is not None and not Path(f"/proc/{maker.group(1)}").exists():
                with contextlib.suppress(NetworkError):  # somebody else sweeps too
                    Host(namespace, "", "").remove()


def end_on_sigterm() -> None:
    """Turns SIGTERM into an exception in the main thread, so that ``with`` blocks are left."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class Network:
    """A switch and its hosts. Use it with ``with``, which ends every process there and removes all of it."""

    def __init__(self) -> None:
        self._name = f"lw-{os.getpid()}-{secrets.token_hex(2)}"
        self._hosts: list[Host] = []
        self._count = 0
        self._switch = f"{self._name}-switch"

    def __enter__(self) -> Self:
        sweep()
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "br0", "up")
        except NetworkError:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def host(self, name: str, address: int | None = None) -> Host:
        """Makes a new host; its address ends with ``address``, or with the next free number from 11 on."""
        self._count += 1
        host = Host(f"{self._name}-{name}-{self._count}", f"{_SUBNET}.{address or 10 + self._count}", self._switch)
        self._hosts.append(host)
        host.plug_in(f"port{self._count}")
        return host

    def close(self) -> None:
        """Kills every process on every host, then the hosts and the switch. Never raises."""
        for host in self._hosts:
            with contextlib.suppress(NetworkError):
                host.remove()
        self._hosts.clear()
        with contextlib.suppress(NetworkError):
            _ip("netns", "del", self._switch)


class Host:
    """A network namespace and its link to the switch. Made by ``Network.host``.

    Attributes:
        address: IPv4, on the switch's subnet.
        namespace: what `ip netns` calls it.
    """

    def __init__(self, namespace: str, address: str, switch: str) -> None:
        self.address = address
        self.namespace = namespace
        self._switch = switch
        self._port = ""
        self._children: list[Child] = []

    def plug_in(self, port: str) -> None:
        """Makes the namespace and its link."""
        self._port = port
        _ip("netns", "add", self.namespace)
        peer = ("peer", "name", port, "netns", self._switch)
        _ip("link", "add", "eth0", "netns", self.namespace, "type", "veth", *peer)
        _ip("-n", self._switch, "link", "set", port, "master", "br0", "up")
        _ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self.namespace, "link", "set", device, "up")

    def command(self, *words: str) -> list[str]:
        """Command line that runs ``words`` on this host; the process that starts is the command itself."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def start(self, name: str, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Child:
        """Starts a process on this host. Call it from the main thread."""
        self._children.append(Child(name, self.command(*words), log, environment))
        return self._children[-1]

    def cut(self) -> None:
        """Takes the link down at the switch: packets are dropped, and no connection is told."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def heal(self) -> None:
        """Ends a cut."""
        _ip("-n", self._switch, "link", "set", self._port, "up")

    def ends_within(self, seconds: float) -> bool:
        """Whether every process that was started on this host ends by itself within ``timeout_s``."""
        end = time.monotonic() + seconds
        return all(child.wait(end) for child in self._children)

    def kill(self) -> None:
        """Sends SIGKILL to every process on this host, until none is left."""
        end = time.monotonic() + _LIMIT_S
        while pids := _ip("netns", "pids", self.namespace).split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if time.monotonic() > end:
                raise NetworkError(f"processes {', '.join(pids)} on {self.namespace} do not die")
            time.sleep(0.02)
        for child in self._children:
            child.kill()  # dead already: this takes note of it

    def remove(self) -> None:
        """Kills what runs on this host and takes it off the network; its address may be used again."""
        self.kill()
        _ip("netns", "del", self.namespace)

    def capture(self, path: Path) -> Capture:
        """Records every packet on its link from now on."""
        return Capture(self, path)


class Capture:
    """A running tcpdump on a host's own end of its link, where a stream is complete however the link behaves."""

    def __init__(self, host: Host, path: Path) -> None:
        self.path = path
        log = path.with_suffix(".log")
        words = ("tcpdump", "-i", "eth0", "-w", str(path), "-U", "-s", "0", "-B", "16384", "-Z", "root", "tcp")
        self._child = host.start("tcpdump", words, log)
        end = time.monotonic() + _LIMIT_S
        while "listening on" not in self._child.tail():
            if self._child.exit_code() is not None or time.monotonic() > end:
                raise NetworkError(f"tcpdump does not record: {self._child.tail()}")
            time.sleep(0.02)

    def finish(self) -> Path:
        """Stops recording and returns the file. Raises NetworkError if packets were dropped: then it proves nothing."""
        self._child.terminate()
        self._child.wait(time.monotonic() + _LIMIT_S)
        if "\n0 packets dropped by kernel" not in self._child.log.read_text():
            raise NetworkError(f"tcpdump did not see everything: {self._child.tail()}")
        return self.path


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetworkError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise NetworkError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
