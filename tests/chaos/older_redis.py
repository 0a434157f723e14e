"""`python -m tests.chaos.older_redis`: gives a whole run an older copy of its Redis, then an empty one, and counts.

Nothing may be accepted or trained while nobody has decided; after the operator's decision the run goes on. Each case prints
`doubled=0 missing=N announced=M ledger=balanced`: of the acknowledged groups none is in the weights twice, and those that are
in none are at most those that the decision has announced.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import redis

from learner.cli.operate.trained_record import trained_steps
from learner.cli.run.run_directory import RunDirectory
from learner.config import QueueConfig
from learner.queue import QueueError
from learner.queue.acceptance import Accepted, HaltedQueue
from learner.queue.witness import FORGETTABLE_S, Halt
from tests.chaos.account import Account
from tests.chaos.drain import drain, waiting
from tests.chaos.plan import Plan
from tests.chaos.stack import RUN, Stack

_LIMIT_S = 180.0
_OLDER_S = 2 * FORGETTABLE_S  # how much older the copy is
_STILL_S = 3.0  # for how long nothing may happen while the queue is halted


@dataclass(frozen=True)
class Loss:
    """What became of a run whose Redis was replaced.

    Attributes:
        halt: what the processes had found.
        decision: what the operator's decision did.
        idle: acks and steps while the queue was halted.
        account: of the logs, at the end.
        missing: acknowledged groups that are in no weights, did not expire and do not wait.
        imbalance: equations of the ledgers that do not hold.
    """

    halt: Halt
    decision: Accepted
    idle: int
    account: Account
    missing: int
    imbalance: list[str]

    @property
    def announced(self) -> int:
        """The most groups that may be missing, as the decision said."""
        return sum(self.decision.vanished.values())

    @property
    def held(self) -> bool:
        """Whether nothing happened without a word."""
        quiet = not self.idle and not self.account.doubled and not self.imbalance
        return quiet and self.missing <= self.announced


def make_older(stack: Stack, copy: Path) -> None:
    """Kills Redis and puts the copy of its files in the place of its own."""
    stack.members["redis"].kill()
    files = stack.directory / "redis/appendonlydir"
    shutil.rmtree(files)
    shutil.copytree(copy, files)


def flush(stack: Stack, _: Path) -> None:
    """Deletes everything that is in Redis."""
    with contextlib.closing(redis.Redis.from_url(stack.redis_url)) as client:
        client.flushall()


KINDS: Mapping[str, Callable[[Stack, Path], None]] = {"older": make_older, "flushed": flush}


def measure(stack: Stack, replace: Callable[[Stack, Path], None]) -> Loss:
    """Replaces the Redis of a stack that runs, decides as an operator, and drains the stack. Raises AssertionError."""
    stack.ready()
    copy = stack.directory / "copy"
    shutil.copytree(stack.directory / "redis/appendonlydir", copy)
    _pass_time(stack, _OLDER_S)
    replace(stack, copy)
    stack.until(lambda: _halted(stack), "halt of the queue", _LIMIT_S)
    _pass_time(stack, _STILL_S)  # what was on its way
    before = _done(stack)
    _pass_time(stack, _STILL_S)
    idle = _done(stack) - before
    with HaltedQueue(_config(stack)) as queue:
        halt = queue.halt()  # with what those knew who looked later
        assert halt is not None
        run = RunDirectory(stack.directory)
        decision = queue.accept(halt, trained_steps(run.checkpoints, run.metrics))
    before, steps = _done(stack), stack.watch.steps
    stack.until(lambda: stack.watch.steps > steps + 4 and _done(stack) > before + 100, "progress again", _LIMIT_S)
    drain(stack)
    account, left = Account.read(stack.directory), waiting(stack)
    missing = len([one for one in account.lost if one not in left])
    return Loss(halt, decision, idle, account, missing, stack.imbalance())


def _halted(stack: Stack) -> bool:
    with contextlib.suppress(QueueError), HaltedQueue(_config(stack)) as queue:
        return queue.halt() is not None
    return False


def _config(stack: Stack) -> QueueConfig:
    return QueueConfig(url=stack.redis_url, run=RUN, timeout_s=2.0)


def _done(stack: Stack) -> int:
    stack.watch.poll()
    acked = sum(stack.watch.acked(name) for name in stack.members if name.startswith("producer"))
    return acked + stack.watch.events["checkpoint"]


def _pass_time(stack: Stack, seconds: float) -> None:
    end = time.monotonic() + seconds
    stack.until(lambda: time.monotonic() > end, "time", seconds + 60)


def main() -> int:
    """Prints the figures of each kind; returns exit status 1 if a group was lost without a word, or trained twice."""
    held = True
    with tempfile.TemporaryDirectory() as root:
        for kind, replace in KINDS.items():
            stack = Stack(Path(root) / kind, Plan(gateways=1))
            try:
                loss = measure(stack, replace)
            finally:
                stack.close()
            print(loss.halt.describe(RUN))
            balanced = "unbalanced" if loss.imbalance else "balanced"
            print(
                f"{kind}: acknowledged={len(loss.account.acked)} while_halted={loss.idle} "
                f"returned={loss.decision.returned} restored={loss.decision.restored} "
                f"doubled={len(loss.account.doubled)} missing={loss.missing} announced={loss.announced} ledger={balanced}"
            )
            held &= loss.held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
