"""A chaos run from start to account: a stack, a schedule of faults, a recovery after each, and the end check."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leeway.v1 import rollout_pb2 as pb
from tests.chaos.account import Account, Id
from tests.chaos.drain import drain, waiting
from tests.chaos.faults import Condition, Faults
from tests.chaos.pauses import longest_pauses
from tests.chaos.random_operator import Operator
from tests.chaos.schedule import Fault
from tests.chaos.stack import Stack

_RECOVERY_S = 240.0  # far above any recovery; a machine may be busy
_SLOW = ("learner", "worker")  # these come back by themselves while other faults go on


class ChaosError(Exception):
    """A check of a chaos run failed. The message says which one, after which faults, and how the logs end."""


@dataclass
class Recovery:
    """The conditions that must come true before a fault counts as recovered."""

    fault: Fault
    conditions: list[Condition]
    started: float

    def over(self) -> bool:
        self.conditions = [condition for condition in self.conditions if not condition()]
        return not self.conditions


@dataclass
class Result:
    """Counts, recovery times and the final account of a campaign."""

    kills: Counter[str] = field(default_factory=Counter)  # by process
    others: Counter[str] = field(default_factory=Counter)  # by kind of fault
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds, by kind of fault
    ledgers_checked: int = 0
    imbalance: list[str] = field(default_factory=list)
    account: Account = field(default_factory=Account)
    lost: list[Id] = field(default_factory=list)  # acknowledged; in no weights, not expired, not given up by a rollback
    announced: int = 0  # groups that rollbacks gave up, as the ledgers say
    counted: int = 0  # groups that the ledgers count as trained and the surviving weights do not contain
    gateway_mib: float = 0.0  # most memory that a gateway has had
    changes: int = 0  # that an operator has drawn; some are two requests
    unsettled: list[str] = field(default_factory=list)  # what is wrong with what became of them
    left: int = 0  # groups still in the streams: 0 unless some vanished
    ledgers: Sequence[pb.Ledger] = ()
    pauses: dict[str, float] = field(default_factory=dict)  # fleet -> seconds
    steps: int = 0
    learners: int = 0
    seconds: float = 0.0


class Campaign:
    """Runs a schedule against a stack.

    Args:
        stack: started, ready or not.
        faults: the schedule.
        minutes: no fault begins later than this after the start.
        own_engine: how many kills of the worker take its engine with it; from then on the engine runs beside it.
        changes: how many changes an operator requests meanwhile, spread over the faults.
    """

    def __init__(
        self, stack: Stack, faults: Sequence[Fault], minutes: float, own_engine: int = 0, changes: int = 0
    ) -> None:
        self.result = Result()
        self._operator = Operator(stack, len(faults))
        self._changes = changes
        self._stack = stack
        self._schedule = faults
        self._minutes = minutes
        self._own_engine = own_engine
        self._faults = Faults(stack)
        self._pending: list[Recovery] = []
        self._done: list[Fault] = []

    def run(self) -> Result:
        """Runs the schedule, drains the stack and checks the account. Raises ChaosError."""
        started = time.monotonic()
        try:
            self._stack.ready()
            for fault in self._schedule:
                if time.monotonic() - started > 60 * self._minutes:
                    break
                if self._changes * fault.number // len(self._schedule) > self.result.changes:
                    self._operator.change()
                    self.result.changes += 1
                self._one(fault)
            self._settle(lambda recovery: True)
            self.result.unsettled = self._operator.problems()
            drain(self._stack)
            self._check()
            return self._sum_up(time.monotonic() - started)
        except AssertionError as error:
            raise ChaosError(self._story(str(error))) from error

    def _sum_up(self, seconds: float) -> Result:
        stack, result = self._stack, self.result
        account, left = Account.read(stack.directory), waiting(stack)
        result.account = account
        given_up = account.given_up if stack.watch.rollbacks else set()
        result.lost = [id_ for id_ in account.lost if id_ not in left and id_ not in given_up]
        result.left = len(left)
        result.ledgers = stack.ledgers()
        result.announced = sum(ledger.given_up for ledger in result.ledgers)
        result.counted = sum(ledger.trained for ledger in result.ledgers) - len(account.trained)
        result.gateway_mib = stack.gateway_mib
        result.pauses = longest_pauses(stack.directory)
        result.steps, result.learners = stack.watch.steps, len(stack.watch.epochs)
        result.seconds = seconds
        return result

    def _one(self, fault: Fault) -> None:
        # A process is not hit again before it is back: that would only hide whether it comes back.
        self._settle(lambda recovery: self._in_the_way(recovery.fault, fault))
        end = time.monotonic() + fault.wait_s
        self._stack.until(lambda: time.monotonic() > end, "time", fault.wait_s + 60)
        _say(f"{fault}")
        self._done.append(fault)
        started = time.monotonic()
        conditions = self._faults.do(fault)
        if fault.kind == "kill":
            self.result.kills[fault.target] += 1
            if fault.target == "worker" and self.result.kills["worker"] == self._own_engine:
                self._stack.use_engine("engine beside")
        else:
            self.result.others[f"{fault.kind} {fault.target}"] += 1
            started = time.monotonic()  # it has lasted as long as it was meant to; recovery begins at its end
        self._pending.append(Recovery(fault, conditions, started))
        if fault.target not in _SLOW or fault.kind != "kill":
            self._settle(lambda recovery: recovery.fault is fault)
        self._check()

    def _in_the_way(self, pending: Fault, fault: Fault) -> bool:
        # The conditions of a learner's own recovery must not be evaluated while no learner runs.
        same = pending.target == fault.target
        return same or (pending.target == "learner" and fault.kind != "kill")

    def _settle(self, which) -> None:
        """Waits for the recoveries that ``which`` selects; records the duration of every one that is over."""
        while wanted := [recovery for recovery in self._pending if which(recovery)]:
            waited = time.monotonic() - wanted[0].started
            self._stack.until(self._some_over, str(wanted[0].fault), _RECOVERY_S - waited)
            for recovery in [recovery for recovery in self._pending if not recovery.conditions]:
                self._pending.remove(recovery)
                seconds = time.monotonic() - recovery.started
                self.result.recoveries[f"{recovery.fault.kind} {recovery.fault.target}"].append(seconds)
                _say(f"   recovered from {recovery.fault.number} in {seconds:.1f} s")

    def _some_over(self) -> bool:
        # Every one is asked: each has to see when it became ready.
        return sum(recovery.over() for recovery in self._pending) > 0

    def _check(self) -> None:
        self.result.ledgers_checked += 1
        if imbalance := self._stack.imbalance():
            self.result.imbalance += imbalance
            raise AssertionError("the ledger does not balance:\n" + "\n".join(imbalance) + "\n" + self._stack.tails())

    def _story(self, problem: str) -> str:
        done = "\n".join(map(str, self._done[-15:]))
        return f"{problem}\nthe last faults of {len(self._done)}:\n{done}\nlogs: {self._stack.directory}"


def campaign_directory(root: Path, seed: int) -> Path:
    """Creates a new directory for a run's files."""
    directory = root / time.strftime(f"%Y%m%d-%H%M%S-seed{seed}")
    directory.mkdir(parents=True)
    return directory


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
