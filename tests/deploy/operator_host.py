"""`python -m tests.deploy.operator_host`: an operator on a host of its own, with an address, a token and a certificate.

A Redis host, a gateway host, a learner host, a fleet host with tests/deploy/engine.py, and the operator's, whose commands
start in an empty directory. What they print is looked at, and every change has to be in the journal at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from learner.checkpoint.rollback import ROLLED_BACK
from learner.cli.run.identities import add_fleet
from tests.deploy import network
from tests.deploy.hosts import Hosts, Show
from tests.deploy.site import Site, refusal

FLEET, OPERATOR = "tokyo", "ann"
SETTINGS = (
    "run.name=operated", "learner.steps=100000", "learner.parallel.tensor=1", "learner.parallel.pipeline=1",
    "learner.checkpoint.every=5", "learner.checkpoint.keep=1000", "learner.publish.keep=1000",
    "learner.objective.name=asympo",
)  # fmt: skip
_COMMAND_S = 300.0
_CHANGES = {
    "drain", "undrain", "pin", "unpin", "set", "unset", "pause", "resume", "checkpoint", "publish", "backup", "rollback",
    "finish",
}  # fmt: skip


class Operator:
    """Runs commands on the operator's host.

    Args:
        site: the hosts, with a learner and a fleet at work.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        site.hosts[OPERATOR] = site.network.host(OPERATOR)
        self._away = site.directory / "away"
        self._away.mkdir()
        token = add_fleet(site.run, OPERATOR, roles=["operate"])
        file = site.directory / "operator.token"
        file.write_text(f"{token}\n")
        pair = site.authority.issue(OPERATOR, f"spiffe://leeway.test/operator/{OPERATOR}")
        self._environment = {name: value for name, value in site.environment.items() if not name.startswith("LEEWAY_")} | {
            "LEEWAY_GATEWAY": site.plan.gateway.listen,
            "LEEWAY_TOKEN_FILE": str(file),
            "LEEWAY_CA": str(site.authority.certificate),
            "LEEWAY_CERTIFICATE": str(pair.certificate),
            "LEEWAY_KEY": str(pair.key),
            "COLUMNS": "200",
        }  # fmt: skip

    def __call__(self, command: str) -> str:
        """Runs ``leeway COMMAND`` there; prints it and its last line. Raises AssertionError when it fails."""
        words = self._site.hosts[OPERATOR].command(sys.executable, "-m", "learner.cli.app", *command.split())
        done = subprocess.run(
            words,
            cwd=self._away,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        if done.returncode:
            raise AssertionError(
                f"leeway {command}: {done.returncode}\n{done.stdout}{done.stderr}\n{self._site.tails()}"
            )
        said = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        print(f"leeway {command}\n    {said[-1][:180] if said else ''}", flush=True)
        return done.stdout


def perform(directory: Path) -> list[str]:
    """Runs the whole; returns the kinds of changes in the journal, in order. Raises AssertionError, NetworkError."""
    with Site(directory, SETTINGS) as site:
        hosts = Hosts(site, Show(0.0, sglang=0, steps=3, warm=False))
        for name in ("learner", FLEET):
            site.hosts[name] = site.network.host(name)
        hosts.start_fleet(FLEET, 0)
        hosts.start_learner()
        operator = Operator(site)
        site.until(lambda: site.step() >= 3, "3 steps", 300)
        _look(operator)
        _manage(operator)
        return _change(operator, site, hosts)


def _look(leeway: Operator) -> None:
    assert "operated" in leeway("status")
    (ledger,) = [
        one for one in json.loads(leeway("ledger --check --recount --json"))["ledgers"] if one["fleet"] == FLEET
    ]
    assert ledger["accepted"] > 0
    leeway("quarantine list")
    leeway("rollouts waiting")
    leeway("evaluations")


def _manage(leeway: Operator) -> None:
    token = leeway("fleet add oslo").strip().splitlines()[-1]
    assert len(token) > 30
    assert "oslo" in leeway("fleet list")
    leeway("fleet revoke oslo")
    assert "oslo" not in leeway("fleet list")
    leeway(f"fleet drain {FLEET}")
    assert "drained" in leeway("status")
    leeway(f"fleet undrain {FLEET}")


def _change(leeway: Operator, site: Site, hosts: Hosts) -> list[str]:
    leeway(f"ctl set lr=3e-5 weights.{FLEET}=2 objective.rho_max=0.2")
    leeway(f"ctl set quotas.{FLEET}.groups_per_s=100")
    at = site.step()
    site.until(lambda: site.step() > at + 1, "steps at the new rate", 120)
    assert abs(site.learner_rows("step")[-1]["lr"] - 3e-5) < 1e-6
    leeway("ctl unset optimizer.lr")
    leeway("ctl pause")
    assert "paused" in leeway("status")
    stood = site.step()
    # Paused: versions of this tiny model are replaced several times a second, and one must be there to be pinned.
    newest = max(int(number) for number in re.findall(r"^\s*(\d+)\s", leeway("policy list"), re.M))
    leeway(f"policy pin {newest}")
    assert "pinned" in leeway("policy list")
    leeway(f"policy pin {newest} --off")
    leeway("ctl checkpoint")
    leeway("ctl publish")
    backup = site.directory / "backup"
    leeway(f"backup file://{backup}")
    assert list(backup.rglob("*manifest*.json")), "the backup has no manifest"
    assert site.step() == stood, "a paused learner has made a step"
    leeway("ctl resume")
    site.until(lambda: site.step() > stood, "steps after the pause", 120)
    leeway(f"policy rollback {newest // 2}")
    learner = site.children.pop("learner")  # it ends, to be started again, as Kubernetes does
    site.until(lambda: learner.exit_code() is not None, "end of the old timeline", 120)
    assert learner.exit_code() == ROLLED_BACK, learner.tail(20)
    hosts.start_learner()
    before = len(site.learner_rows("step"))
    site.until(lambda: len(site.learner_rows("step")) > before, "steps of the new timeline", 180)
    leeway("ctl finish")
    for name in ("learner", FLEET):  # they end by themselves now
        site.children.pop(name)
    site.until(lambda: "the run has finished" in site.log("gateway"), "the end of the run", 120)
    leeway("ledger --check --json")
    journal = json.loads(leeway("ctl log --json"))
    assert all(row["operator"] == OPERATOR for row in journal), journal
    wrong = [row for row in journal if row["state"] != "applied"]
    assert not wrong, wrong
    return [row["kind"] for row in journal]


def main(arguments: Sequence[str]) -> int:
    """Prints each command and what it said; returns 2 if this machine permits no hosts."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.operator_host", description=__doc__)
    parser.add_argument("--keep", type=Path, help="a directory for the logs, kept")
    options = parser.parse_args(arguments)
    network.end_on_sigterm()
    if reason := refusal() or network.refusal():
        print(f"cannot be shown here: {reason}")
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        kinds = perform(options.keep or Path(temporary) / "site")
    absent, took_s = sorted(_CHANGES - set(kinds)), time.monotonic() - began
    print(f"changes={len(kinds)} all applied, in the journal, by {OPERATOR}; not made: {absent}; {took_s:.0f} s")
    return int(bool(absent))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
