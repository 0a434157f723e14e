"""`python -m tests.deploy.pods`: runs what Kubernetes would run of overlays/dev, here, to STEPS optimizer steps.

The overlay is rendered by kubectl; its commands, arguments, environments, ConfigMaps, Secrets, volumes, users, probes and
hooks are then used as they stand, in namespaces of Linux: each pod has its own address, each container its own file system
and process tree. Prints a line per container and probe.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from learner.cli.run.run_history import LearnerHistory, LineReader
from tests.deploy import box, network
from tests.deploy.kubelet import Ending, Node, PodError
from tests.deploy.manifests import render
from tests.deploy.podspec import Overlay
from tests.tools.refuse import MissingTool, missing

OVERLAY = "dev"
LIMIT_S = 400.0
_TICK_S = 0.1
_LAST = {"redis"}  # what the others still need while they end


@dataclass
class Outcome:
    """Outcome of a run. ``probes``: text of each probe's tally, and whether all were green at the end."""

    steps: int = 0
    seconds: float = 0.0
    probes: dict[str, bool] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    endings: list[Ending] = field(default_factory=list)


def refusal() -> str | None:
    """Why pods cannot run on this machine; None when they can."""
    if absent := missing("kubectl", "redis-server", "redis-cli", "nsenter", "setpriv"):
        return absent
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout
    if int(version.partition("v=")[2].partition(".")[0] or 0) < 7:
        return MissingTool(f"redis-server 7 or newer is needed, not {version.strip() or 'none'}")
    return box.refusal() or network.refusal()


def run(steps: int, scratch: Path, limit_s: float = LIMIT_S) -> Outcome:
    """Brings the overlay up, waits for ``steps`` steps with every probe green, and takes it down.

    Raises:
        PodError: a pod failed, or the time is over; the message says which pods were not ready.
    """
    outcome = Outcome()
    began = time.monotonic()
    with Node(Overlay(render(OVERLAY)), scratch) as node:
        rows, metrics = LineReader(scratch / "claims/leeway/metrics/learner.jsonl"), LearnerHistory()
        while outcome.steps < steps or not all(pod.ready for pod in node.pods):
            node.tick()
            for row in rows.read():
                metrics.add(row)
            outcome.steps = max(metrics.steps, default=0)
            if time.monotonic() - began > limit_s:
                raise PodError(f"after {limit_s:.0f} s: {outcome.steps} steps; {_standing(node)}")
            time.sleep(_TICK_S)
        outcome.seconds = time.monotonic() - began
        for pod in node.pods:
            outcome.restarts[pod.pod.name] = pod.restarts
            for prober in pod.probers:
                tallies = {f"{pod.pod.name} {tally}": tally.green for tally in prober.tallies}
                outcome.probes |= tallies
        others = {pod.pod.labels["app.kubernetes.io/component"] for pod in node.pods} - _LAST
        outcome.endings = [*node.delete(others), *node.delete(_LAST)]
    return outcome


def _standing(node: Node) -> str:
    """Describes the pods that are not ready, with the end of their newest log."""
    lines = []
    for pod in node.pods:
        if not pod.ready:
            logs = sorted((node.scratch / "logs").glob(f"{pod.pod.name}.*"), key=lambda path: path.stat().st_mtime)
            tail = logs[-1].read_text(errors="replace").splitlines()[-10:] if logs else []
            lines.append(f"{pod.pod.name} is not ready:\n" + "\n".join(tail))
    return "\n".join(lines) or "all pods are ready"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.pods", description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="an empty directory that is to keep volumes and logs")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))  # so that nothing is left behind
    if (reason := refusal()) is not None:
        print(f"cannot run pods here: {reason}")
        return 1
    with tempfile.TemporaryDirectory(prefix="leeway-pods-") as directory:
        scratch = options.keep or Path(directory)
        try:
            outcome = run(options.steps, scratch)
        except PodError as error:
            print(error)
            return 1
        overlay = Overlay(render(OVERLAY))
        for pod in overlay.pods(dict.fromkeys(overlay.names(), "$ADDRESS")):
            for container in [*pod.init, *pod.containers]:
                print(f"{pod.name}/{container.name}: {' '.join(container.command)[:140]!r}")
    print(*outcome.probes, sep="\n")
    print(*outcome.endings, sep="\n")
    print(
        f"{outcome.steps} steps, all probes green, {sum(outcome.restarts.values())} restarts, {outcome.seconds:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
