"""A container without a container engine: a file system of its own, a process tree of its own, a user without rights.

`unshare`, `mount`, `chroot` and `setpriv` (util-linux, coreutils) do it; root is needed. The file system is the machine's own
programs and libraries, read-only, at their usual places; our virtual environment, where the images have theirs; the volumes;
and nothing else. What an image would bring beyond that is not tested.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.dockerfile import ROOT
from tests.deploy.network import Host
from tests.deploy.podspec import Container

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "ssl", "alternatives", "localtime")


class Box:
    """A container, started at once on the pod's host. Make it in the main thread.

    Args:
        name: POD.CONTAINER: its host name is POD, as the kubelet has it, and its log NAME.log.
        host: the pod's network.
        container: what to run.
        volumes: volume name -> directory.
        names: host name -> address, for /etc/hosts.
        scratch: where its root directory and its log lie.
    """

    def __init__(
        self,
        name: str,
        host: Host,
        container: Container,
        volumes: Mapping[str, Path],
        names: Mapping[str, str],
        scratch: Path,
    ) -> None:
        self.container = container
        self._host = host
        root = (scratch / "root" / name).resolve()
        root.mkdir(parents=True, exist_ok=True)
        self._root = str(root)
        script = "\n".join(
            [
                "set -e",
                f"echo {name.partition('.')[0]} > /proc/sys/kernel/hostname",
                *_root(root, names),
                *_volumes(root, container, volumes),
                *_closed(root, container),
            ]
        )
        script += "\nexec " + shlex.join(["chroot", str(root), "env", "-C", container.directory, *_demoted(container)])
        unshare = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", script]
        self.child = host.start(name, unshare, scratch / "logs" / f"{name}.log", container.environment)

    @property
    def exit_code(self) -> int | None:
        """Exit status of the container; None while it runs."""
        return self.child.exit_code()

    @property
    def started(self) -> bool:
        """Whether the command has been executed in its file system: what a container runtime reports as started."""
        try:
            return any(os.readlink(f"/proc/{pid}/root") == self._root for pid in self._inner())
        except FileNotFoundError:
            return False

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the container's process 1, which is our command itself."""
        for pid in self._inner():
            os.kill(pid, number)

    def wait(self, deadline: float) -> bool:
        return self.child.wait(deadline)

    def execute(self, command: list[str], timeout_s: float) -> int:
        """Runs a command in the container, as exec probes do; returns its exit status, 1 when it takes too long."""
        inner = self._inner()
        if not inner:
            return 1
        enter = ["nsenter", "--target", str(inner[0]), "--mount", "--pid", "--net", "--ipc", "--root", "--wd"]
        words = [*enter, *_demoted(self.container, command)]
        try:
            return subprocess.run(
                words, env=self.container.environment, capture_output=True, timeout=timeout_s, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            return 1

    def kill(self) -> None:
        """Sends SIGKILL to every process in the container."""
        self.child.kill()

    def _inner(self) -> list[int]:
        """Process ids, on this machine, of the container's process 1; empty when it has ended."""
        file = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children")
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def refusal() -> str | None:
    """Why containers cannot be made on this machine; None when they can."""
    if os.geteuid():
        return "only root can make mount namespaces here"
    probe = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", "mount -t tmpfs none /mnt && setpriv --version"]
    try:
        done = subprocess.run(probe, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unshare: {error}"
    return f"unshare: {done.stderr.strip()}" if done.returncode else None


def _root(root: Path, names: Mapping[str, str]) -> list[str]:
    """Makes a root directory with the machine's programs, our code and an /etc with no more than programs ask for."""
    lines = ["mount --make-rprivate /", f"mount -t tmpfs -o mode=755 tmpfs {root}", f"cd {root}"]
    lines.append("mkdir -p -m 755 proc sys dev etc opt/leeway run var/lib home && mkdir -m 1777 tmp")
    for name in _SYSTEM:
        path = Path("/") / name
        if path.is_symlink():
            lines.append(f"ln -s {os.readlink(path)} {name}")
        elif path.is_dir():
            lines += [f"mkdir -p {name}", *_bound(str(path), name, read_only=True)]
    for name in _ETC:
        if (Path("/etc") / name).exists():
            lines.append(f"cp -a /etc/{name} etc/{name}")
    hosts = "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **names}.items())
    lines.append(f"printf %s {shlex.quote(hosts)} > etc/hosts")
    lines += ["mount -t proc proc proc", "mount --rbind /dev dev", "mount --rbind /sys sys"]
    lines += _bound(sys.prefix, "opt/leeway", read_only=True)
    for path in {str(ROOT), sys.prefix, *_interpreters()}:  # where the environment's files point to
        lines += [f"mkdir -p .{path}", *_bound(path, f".{path}", read_only=True)]
    return lines


def _interpreters() -> list[str]:
    """Directories of the Python installation that are not among the system's own."""
    base = sys.base_prefix
    return [] if base.lstrip("/").split("/")[0] in _SYSTEM else [base]


def _volumes(root: Path, container: Container, volumes: Mapping[str, Path]) -> list[str]:
    lines: list[str] = []
    for mount in sorted(container.mounts, key=lambda mount: mount.path):
        source = volumes[mount.volume] / (mount.sub_path or "")
        target = str(root) + mount.path
        if source.is_dir():
            lines.append(f"mkdir -p {shlex.quote(target)}")
        else:
            lines.append(f"mkdir -p {shlex.quote(os.path.dirname(target))} && touch {shlex.quote(target)}")
        lines += _bound(str(source), target, mount.read_only)
        if str(ROOT).startswith(f"{mount.path}/"):  # a checkout below /tmp is hidden by the pod's own /tmp
            lines += [f"mkdir -p {root}{ROOT}", *_bound(str(ROOT), f"{root}{ROOT}", read_only=True)]
    return lines


def _closed(root: Path, container: Container) -> list[str]:
    return [f"mount -o remount,ro {root}"] if container.read_only else []


def _bound(source: str, target: str, read_only: bool) -> list[str]:
    quoted = shlex.quote(target)
    lines = [f"mount --bind {shlex.quote(source)} {quoted}"]
    return [*lines, f"mount -o remount,bind,ro {quoted}"] if read_only else lines


def _demoted(container: Container, command: list[str] | None = None) -> list[str]:
    """Command line that runs ``command`` as the pod's user, without any capability and without a way to get one."""
    groups = "--clear-groups" if container.file_group is None else f"--groups={container.file_group}"
    rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", groups]
    return [
        "setpriv",
        f"--reuid={container.user}",
        f"--regid={container.group}",
        *rights,
        *(command or container.command),
    ]
