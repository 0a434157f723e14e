"""`python -m tests.chaos.agents --kills N --seed S`: kills engines, environments, agents and workers under episodes.

A real worker with two SGLang servers plays episodes of an agent command; each episode calls the model three times. At the end
no group is half, nothing that was acknowledged is lost, and no process is left. Exit status 0 if so; else the differences are
printed, and it is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.chaos.agent_account import differences, half_groups, running
from tests.chaos.agent_stack import GROUP, KINDS, AgentStack, Kind, by_label
from tests.chaos.campaign import campaign_directory

_SHARES = {"agent": 9, "host": 8, "engine": 7, "worker": 6}  # of thirty kills
_LOAD = 3  # groups that arrive between two kills
_LONGEST_PAUSE_S = 1.5
_GONE_S = 60.0  # in which a dead process's children have to be gone; a guard needs milliseconds on a quiet machine
_QUIET = 3  # readings of the metrics in a row


def schedule(kills: int, seed: int) -> list[Kind]:
    """Draws what is killed, in order: every kind at least once, as far as there are enough kills."""
    rng = random.Random(seed)
    rest = rng.choices(list(KINDS), [_SHARES[kind] for kind in KINDS], k=max(0, kills - len(KINDS)))
    drawn: list[Kind] = [*KINDS[:kills], *rest]
    rng.shuffle(drawn)
    return drawn


@dataclass
class Outcome:
    """What a campaign has found.

    Attributes:
        kills: by kind.
        costs: by kind of the last kill before: what the worker's metrics counted until the next one.
        survivors: command lines of processes that outlived the one they belong to.
        wrong: everything else that does not hold.
        totals: the worker's metrics over all its lives.
        groups: that arrived.
        needed: tokens that policies generated in them.
        seconds: from the first kill to the last group.
    """

    kills: Counter[str] = field(default_factory=Counter)
    costs: dict[str, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in KINDS})
    survivors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    groups: int = 0
    needed: int = 0
    seconds: float = 0.0

    @property
    def again(self) -> float:
        """Tokens that were generated and are in no group, for each that is."""
        return (self.totals["tokens_received"] - self.needed) / max(1, self.needed)


class AgentCampaign:
    """Kills processes of a stack by a schedule, and checks what is left.

    Args:
        stack: started, ready or not.
        kinds: what is killed, in order.
        seed: of which process of a kind is killed, and when.
    """

    def __init__(self, stack: AgentStack, kinds: Sequence[Kind], seed: int) -> None:
        self.outcome = Outcome()
        self._stack = stack
        self._kinds = kinds
        self._rng = random.Random(seed)

    def run(self) -> Outcome:
        """Runs the schedule, lets what is under way come to its end, and checks. Raises AssertionError if something hangs."""
        stack, outcome = self._stack, self.outcome
        self._load("first groups")
        started, last, before = time.monotonic(), "", stack.totals()
        for kind in self._kinds:
            self._until_possible(kind)
            if last:
                stack.scrape()
                outcome.costs[last] += stack.totals() - before
            last, before = kind, stack.totals()
            self._kill(kind)
            stack.publish()
            self._load(f"groups after a kill ({kind})")
        self._drain()
        outcome.costs[last] += stack.totals() - before
        outcome.seconds = time.monotonic() - started
        self._end()
        return outcome

    def _until_possible(self, kind: Kind) -> None:
        end = time.monotonic() + self._rng.uniform(0, _LONGEST_PAUSE_S)
        enough = 2 if kind == "engine" else 1  # never the last one: then nothing would be under way
        self._stack.until(lambda: time.monotonic() > end and self._stack.serving(), "working engine")
        self._stack.until(lambda: len(self._stack.processes(kind)) >= enough, f"{kind} to kill")
        if kind == "engine":
            self._stack.until(lambda: self._stack.serving_engines() == 2, "second working engine")

    def _kill(self, kind: Kind) -> None:
        while True:
            try:
                doomed = self._stack.kill(kind, self._rng)
                break
            except (IndexError, psutil.NoSuchProcess):  # it has just ended by itself
                self._stack.until(lambda: self._stack.processes(kind), f"{kind} to kill")
        self.outcome.kills[kind] += 1
        self._require_gone(doomed)
        sys.stdout.write(f"{self.outcome.kills.total():3d} killed: {kind}\n")
        sys.stdout.flush()

    def _require_gone(self, doomed: Sequence[psutil.Process]) -> None:
        """Waits for the end of processes, before the worker is started again; those that do not end are survivors."""
        end = time.monotonic() + _GONE_S
        self._stack.until(lambda: not running(doomed) or time.monotonic() > end, "time", restart=False)
        self._survived(running(doomed))

    def _survived(self, processes: Sequence[psutil.Process]) -> None:
        for process in processes:
            self.outcome.survivors.append(f"{process.pid}: {' '.join(process.cmdline())[:200]}")

    def _load(self, what: str) -> None:
        target = len(self._stack.groups) + _LOAD
        self._stack.until(lambda: len(self._stack.groups) >= target, what)

    def _drain(self) -> None:
        """Lets the worker come to rest: without a learner that takes groups, it gets no leases."""
        stack, quiet = self._stack, 0
        stack.consuming = False

        def at_rest() -> bool:
            nonlocal quiet
            stack.scrape()
            quiet = quiet + 1 if stack.idle() else 0
            return quiet >= _QUIET

        stack.until(at_rest, "rest")

    def _end(self) -> None:
        stack, outcome = self._stack, self.outcome
        stack.see()
        if (status := stack.worker.end(60)) != 0:
            outcome.wrong.append(f"the worker's clean end had exit status {status}")
        end = time.monotonic() + _GONE_S
        stack.until(lambda: not stack.left() or time.monotonic() > end, "time", restart=False)
        self._survived(stack.left())
        stack.take()
        outcome.totals, outcome.groups, outcome.needed = stack.totals(), len(stack.groups), stack.needed()
        outcome.wrong += half_groups(stack.groups, GROUP)
        outcome.wrong += differences(stack.acked(), [group.group_id for group in stack.groups], stack.ledger())


def show(outcome: Outcome) -> None:
    """Prints what was killed, what it has cost, and what does not hold."""
    print(
        f"\n{'killed':8} times  continued  played again  tokens discarded  unscored by reason; groups withdrawn by reason"
    )
    for kind in KINDS:
        cost = outcome.costs[kind]
        print(
            f"{kind:8} {outcome.kills[kind]:5}  {cost['continued_responses']:9.0f}  {cost['episodes/played_again']:12.0f}  "
            f"{sum(by_label(cost, 'tokens_discarded').values()):16.0f}  {_by_reason(cost, 'unscored_responses')}; "
            f"{_by_reason(cost, 'withdrawn_groups')}"
        )
    print(
        f"{outcome.groups} groups in {outcome.seconds:.0f} s; {outcome.totals['tokens_received']:.0f} tokens generated, "
        f"{outcome.needed} needed: {outcome.again:.2%} generated again (discarded: "
        f"{_by_reason(outcome.totals, 'tokens_discarded')}; the rest: episodes that were played again or withdrawn)"
    )
    for line in (*(f"survived: {one}" for one in outcome.survivors), *outcome.wrong):
        print(line)


def _by_reason(counts: Counter[str], name: str) -> str:
    found = sorted(by_label(counts, name).items())
    return ", ".join(f"{reason} {value:.0f}" for reason, value in found) or "none"


def main(arguments: list[str]) -> int:
    """Runs a campaign; returns the exit status."""
    options = _parser().parse_args(arguments)
    directory = campaign_directory(options.directory, options.seed)
    print(f"seed {options.seed}: {options.kills} kills, in {directory}")
    stack = AgentStack(directory)
    campaign = AgentCampaign(stack, schedule(options.kills, options.seed), options.seed)
    try:
        outcome = campaign.run()
    except AssertionError as error:
        show(campaign.outcome)
        print(f"{error}\nafter {campaign.outcome.kills.total()} kills; run it again with --seed {options.seed}")
        return 1
    finally:
        stack.close()
    show(outcome)
    failed = bool(outcome.survivors or outcome.wrong)
    print(f"kills={outcome.kills.total()} survivors={len(outcome.survivors)} differences={len(outcome.wrong)}")
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.agents", description=__doc__)
    parser.add_argument("--kills", type=int, default=30, help="SIGKILLs in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default: %(default)s)")
    default = Path(tempfile.gettempdir()) / "leeway-chaos-agents"
    parser.add_argument("--directory", type=Path, default=default, help="for logs and data (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
