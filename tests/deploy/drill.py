"""`python -m tests.deploy.drill [DIRECTORY]`: causes faults in real processes, and waits for alerts to fire and to end.

Real Redis, gateway, learner and two producers (the chaos tests' stack), scraped by a real Prometheus with the rules of
deploy/prometheus, their limits shortened to seconds. Then: no checkpoint is due for a long time; a fleet freezes; the learner
freezes; both go on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.plan import Plan
from tests.chaos.stack import RUN, Stack, free_port
from tests.deploy.prometheus import Prometheus

LIMITS = {"checkpoint_age_seconds": 15.0, "fleet_silent_seconds": 6.0, "no_progress_seconds": 10.0}
CHECKPOINT, SILENT, STUCK = "LeewayCheckpointTooOld", "LeewayFleetSilent/fleet-1", "LeewayNoProgress"
_QUIET = {"LeewayNoGateway", "LeewayTargetDown", "LeewayLedgerImbalance", "LeewayGroupsLost", "LeewayLearnerAbsent"}
_DEADLINE_S = 240.0


class Drill:
    """One drill in a directory. ``close`` leaves no process behind.

    Attributes:
        times: what happened -> seconds until an alert fired or ended.
    """

    def __init__(self, directory: Path) -> None:
        gateway, learner = (f"127.0.0.1:{free_port()}" for _ in range(2))
        plan = Plan(
            gateways=1,
            checkpoint_every=1_000_000,
            learner={"status": {"listen": learner}},
            gateway={"status": {"listen": gateway}},
        )
        self.times: dict[str, float] = {}
        self._stack = Stack(directory / "stack", plan)
        self._server = Prometheus(directory / "prometheus", RUN, {"gateway": gateway, "learner": learner}, LIMITS)

    def run(self) -> None:
        """Causes each fault in turn. Raises AssertionError if an alert does not fire or end, or fires without cause."""
        stack, server = self._stack, self._server
        stack.ready()
        stack.until(server.answers, "Prometheus", 30.0)
        self._note("trains, and nothing else fires", lambda: not server.firing() - {CHECKPOINT} and self._steps() > 3)
        self._note("checkpoint too old fires", lambda: CHECKPOINT in server.firing())
        assert not server.firing() & {SILENT, STUCK, *_QUIET}, server.firing()
        stack.members["producer-1"].freeze()
        self._note("fleet silent fires", lambda: SILENT in server.firing())
        assert not server.firing() & {STUCK, "LeewayFleetSilent/fleet-0", *_QUIET}, server.firing()
        stack.members["learner"].freeze()
        self._note("no progress fires", lambda: STUCK in server.firing())
        for name in ("producer-1", "learner"):
            stack.members[name].thaw()
        self._note("both end", lambda: not server.firing() & {SILENT, STUCK})
        assert stack.imbalance() == []

    def close(self) -> None:
        """Ends every process."""
        self._server.child.kill()
        self._stack.close()

    def _steps(self) -> float:
        return self._server.value(f'leeway_learner_step{{run="{RUN}"}}') or 0.0

    def _note(self, what: str, condition: Callable[[], bool]) -> None:
        """Polls a condition twice a second until it holds, keeps the stack alive meanwhile, and records the seconds."""
        due = [0.0]

        def looked() -> bool:
            if time.monotonic() < due[0]:
                return False
            due[0] = time.monotonic() + 0.5
            return condition()

        self.times[what] = self._stack.until(looked, what, _DEADLINE_S)


def main(directory: Path) -> None:
    """Runs a drill and prints what it saw."""
    drill = Drill(directory)
    try:
        drill.run()
    finally:
        drill.close()
        for what, seconds in drill.times.items():
            print(f"{seconds:6.1f} s  {what}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.drill", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", help="where its files stay; default: nowhere")
    chosen = parser.parse_args().directory
    if shutil.which("prometheus") is None:
        sys.exit("prometheus is not installed here: the drill needs its server")
    if chosen is not None:
        main(chosen)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
