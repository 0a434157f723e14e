"""The process of a launcher: `python -m rollout.environments.serve --socket PATH`, in a container for code of a user's own.

A worker whose `environments.socket` is PATH has its hosts started here, so that tasks, judges and agents have neither its
files and keys nor its environment. Like a host, it needs nothing but the standard library and the rooms rollout/ and
runtime/.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from rollout.environments.guard import import_path
from rollout.environments.launch_order import line
from rollout.environments.launcher import Launcher
from runtime.children import adopt_orphans
from runtime.stop_on_signal import run_until_stopped

_CHECK_S = 5.0
_WAITING = 512  # connections that are not taken yet


def main(arguments: list[str] | None = None) -> int:
    """Launches hosts until SIGTERM; with --check, asks the launcher that runs whether it lives. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rollout.environments.serve", description="Launches hosts.")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket, which the worker's container has too")
    parser.add_argument("--check", action="store_true", help="ask the launcher of that socket whether it lives")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            return _check(options.socket)
        adopt_orphans()
        with _listening(options.socket) as listening, import_path() as imports:
            asyncio.run(run_until_stopped(Launcher(imports).serve(listening)))
    except OSError as error:
        sys.stderr.write(f"--socket {options.socket}: {error}\n")
        return 1
    return 0


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket that this user alone may connect to; its file is removed when the block ends."""
    path.unlink(missing_ok=True)  # of a launcher that was killed
    with socket.socket(socket.AF_UNIX) as bound:
        bound.setblocking(False)
        before = os.umask(0o177)
        try:
            bound.bind(str(path))
        finally:
            os.umask(before)
        bound.listen(_WAITING)
        try:
            yield bound
        finally:
            path.unlink(missing_ok=True)


def _check(path: Path) -> int:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_CHECK_S)
        asking.connect(str(path))
        asking.sendall(line({}))
        answer = asking.recv(1 << 16)
    return 0 if b"hosts" in answer else 1


if __name__ == "__main__":
    sys.exit(main())
