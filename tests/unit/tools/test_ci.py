"""`.ci/run`: what it installs, when a missing tool is a failure, and that it goes on without a network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = ("redis-server", "redis-cli", "promtool", "prometheus", "tcpdump", "ip", "node", "npm", "kubectl")
COREUTILS = ("bash", "sh", "sort", "timeout", "rm", "paste", "dirname", "chmod", "sleep", "touch")
# Programs that note how they were called; apt-get brings the packages' programs where its mirror answers.
MAKE = 'echo "make $* strict=$LEEWAY_TEST_STRICT" >>"$CALLS"\n'
APT = 'echo "apt-get $*" >>"$CALLS"\n[ -e "$POLICY" ] || exit 9\ncase "$*" in *install*) {then} ;; esac\n'


class Machine:
    """A checkout and the programs of a machine, in a directory."""

    def __init__(self, directory: Path, absent: tuple[str, ...], then: str, root: bool = True) -> None:
        self.bin, self.calls, self.policy = directory / "bin", directory / "calls", directory / "policy"
        (directory / "checkout/.ci").mkdir(parents=True)
        self.script = shutil.copy(ROOT / ".ci/run", directory / "checkout/.ci/run")
        self.bin.mkdir()
        self.calls.touch()
        for name in COREUTILS:
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name in set(PROGRAMS) - set(absent):
            self._program(name, "")
        self._program("make", MAKE)
        self._program("id", f"echo {0 if root else 1000}\n")
        self._program("apt-get", APT.format(then=then.format(bin=self.bin)))

    def run(self) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.bin), "CALLS": str(self.calls), "POLICY": str(self.policy),
            "LEEWAY_CI_POLICY": str(self.policy), "LEEWAY_CI_INSTALL_S": "5",
        }  # fmt: skip
        return subprocess.run(
            ["bash", self.script], env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()

    def _program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}")
        path.chmod(0o755)


def test_a_machine_that_has_all_installs_nothing_and_is_strict(tmp_path: Path):
    machine = Machine(tmp_path, (), "")
    assert machine.run().returncode == 0
    assert machine.called() == ["make examples strict=", "make test strict=1"]


def test_what_is_missing_is_installed_without_starting_its_services(tmp_path: Path):
    machine = Machine(
        tmp_path, ("redis-server", "promtool"), "touch {bin}/promtool {bin}/redis-server; chmod 755 {bin}/*"
    )
    done = machine.run()
    assert done.returncode == 0, done.stderr
    installed = next(call for call in machine.called() if "install" in call)
    assert installed.endswith("--no-install-recommends prometheus redis-server")
    assert machine.called()[-1] == "make test strict=1"
    assert not machine.policy.exists()


@pytest.mark.parametrize("then", ["exit 100", "sleep 1000"])
def test_without_a_network_the_tests_run_all_the_same_and_it_is_said(tmp_path: Path, then: str):
    machine = Machine(tmp_path, ("tcpdump",), then)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert "ci: NOT STRICT: not installed: tcpdump" in done.stdout
    assert machine.called()[-1] == "make test strict=0"
    assert not machine.policy.exists()


def test_without_root_rights_nothing_is_installed(tmp_path: Path):
    machine = Machine(tmp_path, ("tcpdump",), "", root=False)
    assert "NOT STRICT" in machine.run().stdout
    assert not any("apt-get" in call for call in machine.called())


def test_a_tool_that_no_package_brings_is_said(tmp_path: Path):
    machine = Machine(tmp_path, ("kubectl",), "")
    assert "not installed: kubectl" in machine.run().stdout
    assert not any("apt-get" in call for call in machine.called())
