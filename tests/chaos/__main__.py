"""`python -m tests.chaos --kills N --seed S`: kills a whole run's processes N times, and counts every group.

The last line is `kills=N lost=0 doubled=0 ledger=balanced`. Exit status 0: nothing that was acknowledged was lost, nothing
is in the surviving weights twice, and the ledger balanced after every recovery. With --aof everysec some may be lost: as
many as the ledger says.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign import Campaign, ChaosError, Result, campaign_directory
from tests.chaos.plan import Plan
from tests.chaos.report import show, vanished
from tests.chaos.schedule import KILLS, schedule
from tests.chaos.stack import Stack

_CHANGES = 24 / 50  # of an operator, for each kill
_OWN_ENGINE = 3  # kills of a worker together with its engine, which takes half a minute to start again


def main(arguments: list[str]) -> int:
    """Runs a campaign; returns the exit status."""
    options = _parser().parse_args(arguments)
    targets = [name for name in KILLS if name != "worker" or options.worker]
    faults = schedule(options.kills, options.seed, targets)
    directory = campaign_directory(options.directory, options.seed)
    plan = Plan(aof=options.aof, worker="own engine" if options.worker else "none", hostile=options.hostile)
    print(f"seed {options.seed}: {options.kills} kills, {len(faults) - options.kills} other faults, in {directory}")
    stack = Stack(directory, plan)
    try:
        result = Campaign(stack, faults, options.minutes, _OWN_ENGINE, _changes(options)).run()
    except ChaosError as error:
        print(f"{error}\nseed={options.seed}: run it again with --seed {options.seed} --kills {options.kills}")
        return 1
    finally:
        stack.close()
    show(result)
    return verdict(result, options.aof)


def verdict(result: Result, aof: str) -> int:
    """Prints the last lines and returns the exit status."""
    kills, lost, doubled = sum(result.kills.values()), len(result.lost), len(result.account.doubled)
    for name, ids in (("lost", result.lost), ("doubled", result.account.doubled)):
        if ids:
            print(f"{name}: {', '.join(f'{fleet}/{id_}' for fleet, id_ in ids[:10])}{' ...' if len(ids) > 10 else ''}")
    allowed = 0
    if aof == "everysec":
        allowed = vanished(result)
        print(
            "appendfsync everysec: with each kill of Redis its machine loses power, and its file what was not yet forced to "
            f"disk. Of what had been acknowledged, {lost} groups are gone; the ledger says {allowed}."
        )
    if result.announced != result.counted:
        print(f"rollbacks have announced {result.announced} groups as given up, but the weights lack {result.counted}")
    print(f"changes={result.changes} {'; '.join(result.unsettled) or 'each applied once, or refused with a reason'}")
    balanced = "balanced" if not result.imbalance else "unbalanced"
    print(f"kills={kills} lost={lost} doubled={doubled} ledger={balanced}")
    faulty = bool(result.imbalance or result.unsettled)
    return int(lost != allowed or doubled > 0 or faulty or result.announced != result.counted)


def _changes(options: argparse.Namespace) -> int:
    """How many changes an operator requests: about one for two kills; none where a power cut may take them back."""
    return 0 if options.aof == "everysec" else round(_CHANGES * options.kills)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default: %(default)s)")
    parser.add_argument("--aof", choices=("always", "everysec"), default="always", help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=60.0, help="no fault begins later (default: %(default)s)")
    parser.add_argument("--no-worker", dest="worker", action="store_false", help="leave out the worker and its SGLang")
    parser.add_argument("--no-hostile", dest="hostile", action="store_false", help="leave out the fleets that flood")
    default = Path(tempfile.gettempdir()) / "leeway-chaos"
    parser.add_argument("--directory", type=Path, default=default, help="for logs and data (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
