"""`python -m tests.chaos.restarts`: kills and restarts the real learner ten times while fleets go on.

What the fleets must not notice is measured in their own logs: the longest time any of them waited for an answer, an ack or
a grant of a lease. Fleets with leases stop by themselves when nothing more is promised, and are told so.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.campaign import Campaign, Result, campaign_directory
from tests.chaos.plan import Plan
from tests.chaos.schedule import AIMS, Fault
from tests.chaos.stack import Stack


def measure(root: Path, restarts: int) -> Result:
    """Kills the learner ``restarts`` times and returns what the campaign found. Raises ChaosError."""
    faults = [Fault(number, "kill", "learner", number, AIMS[number % len(AIMS)]) for number in range(1, restarts + 1)]
    stack = Stack(campaign_directory(root, 0), Plan())
    try:
        return Campaign(stack, faults, minutes=60).run()
    finally:
        stack.close()


def main(arguments: Sequence[str]) -> int:
    """Prints the figures; returns exit status 1 if a group was lost or trained twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.restarts", description=__doc__)
    parser.add_argument("--restarts", type=int, default=10)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as root:
        result = measure(Path(root), options.restarts)
    for name, seconds in result.pauses.items():
        print(f"{name}: longest wait for an answer {seconds:.2f} s")
    down = sorted(result.recoveries["kill learner"])
    print(
        f"learner killed {result.kills['learner']} times, back after {down[0]:.1f} to {down[-1]:.1f} s; "
        f"{len(result.account.acked)} groups acknowledged, {len(result.lost)} lost, {len(result.account.doubled)} doubled"
    )
    print(f"longest pause seen by a fleet: {max(result.pauses.values()):.2f} s")
    return int(bool(result.lost or result.account.doubled))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
