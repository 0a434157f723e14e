"""Injects each kind of fault into a stack, and says when the stack has recovered.

A fault returns what recovery means after it: a condition, to be asked until it holds. Recovery is never only that a
process is there again, always that work goes on through it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import redis

from learner.checkpoint.rollback import RollbackRequest, read_request
from learner.checkpoint.store import completed, epoch_and_step
from tests.chaos.schedule import Fault
from tests.chaos.stack import Stack

Condition = Callable[[], bool]
_SIGNS = {"checkpoint": "checkpoints/.epoch_*/*", "publish": "weights/.epoch_*/*"}
_ANSWERS = '"redis answers'  # what a gateway logs then
_AIM_S = 20.0  # how long a phase is waited for; then the learner dies anyway


class Progress:
    """A condition that holds once a count has grown since the moment something was ready."""

    def __init__(self, ready: Condition, count: Callable[[], int]) -> None:
        self._ready = ready
        self._count = count
        self._base: int | None = None

    def __call__(self) -> bool:
        if self._base is None:
            if self._ready():
                self._base = self._count()
            return False
        return self._count() > self._base


class Faults:
    """Injects faults into a stack."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._watch = stack.watch

    def do(self, fault: Fault) -> list[Condition]:
        """Injects a fault and waits until it is over; returns the conditions that hold once the stack has recovered."""
        how = getattr(self, f"_{fault.kind}_{fault.target}", None) or getattr(self, f"_{fault.kind}")
        return how(fault)

    def _kill(self, fault: Fault) -> list[Condition]:
        name = self._name(fault)
        self._stack.members[name].kill()
        if fault.target == "gateway":
            return [self._acks_through(int(name[-1]), lambda: self._stack.listening(name))]
        starts = self._stack.members[name].starts
        return [Progress(lambda: self._stack.members[name].starts > starts, lambda: self._watch.answers[name])]

    def _kill_redis(self, fault: Fault) -> list[Condition]:
        """Kills Redis; with AOF everysec as a power cut does, because a mere SIGKILL loses nothing."""
        gateways = [member for name, member in self._stack.members.items() if name.startswith("gateway")]
        before = [member.output().count(_ANSWERS) for member in gateways]
        self._stack.members["redis"].kill()
        if self._stack.plan.aof == "everysec":
            self._stack.power.cut()

        def back() -> bool:
            # Until then a gateway alone knows what Redis has forgotten: killing it as well would take that along.
            return all(member.output().count(_ANSWERS) > n for member, n in zip(gateways, before, strict=True))

        return self._all_acks(back)

    def _kill_learner(self, fault: Fault) -> list[Condition]:
        learner = self._stack.members["learner"]
        if fault.aim == "start":
            learner.kill()
            starts = learner.starts
            self._stack.until(lambda: learner.starts > starts, "restart of the learner", 30)
        self._take_aim(fault)
        before = self._epochs()
        if learner.alive:
            learner.kill()
        return [Progress(lambda: self._epochs() > before, lambda: self._watch.steps)]

    def _take_aim(self, fault: Fault) -> None:
        """Waits until the learner is in the phase that the fault aims at."""
        learner, directory = self._stack.members["learner"], self._stack.directory
        if fault.aim in _SIGNS:
            # No pause between looks: some of these phases last a few milliseconds.
            _wait_for(lambda: any(directory.glob(_SIGNS[fault.aim])) or not learner.alive, _AIM_S)
        elif fault.aim == "start":
            # Its imports take some seconds; then it takes over, loads, begins and publishes in quick succession.
            staging = set(directory.glob("checkpoints/.epoch_*"))
            _wait_for(lambda: set(directory.glob("checkpoints/.epoch_*")) != staging or not learner.alive, _AIM_S)
            _wait_for(lambda: False, fault.index % 8 / 10)

    def _epochs(self) -> int:
        """Epoch of the newest learner that has begun."""
        self._watch.poll()
        return max(self._watch.epochs, default=0)

    def _freeze(self, fault: Fault) -> list[Condition]:
        member = self._stack.members[self._name(fault)]
        member.freeze()
        self._last(fault)
        member.thaw()
        return [*self._all_acks(), self._steps()]

    def _zombie_learner(self, fault: Fault) -> list[Condition]:
        """Freezes the learner, has it replaced, and thaws it while the new one trains: nothing it does may count."""
        self._take_aim(fault)
        before = self._epochs()
        old = self._stack.zombie()
        self._stack.until(
            Progress(lambda: self._epochs() > before, lambda: self._watch.steps), "step beside a zombie", 240
        )
        self._stack.thaw(old)
        self._stack.until(lambda: old.exit_code() is not None, "end of the fenced learner", 60)
        if old.exit_code() == 0:
            raise AssertionError(f"a fenced learner ended as if all were well:\n{old.tail()}")
        return [self._steps()]

    def _rollback_learner(self, fault: Fault) -> list[Condition]:
        """Kills the learner after it has asked for a rollback, as an alarm makes it do, to the oldest checkpoint it has."""
        checkpoints = self._stack.directory / "checkpoints"
        self._stack.until(lambda: len(completed(checkpoints)) > 1, "second checkpoint", 120)
        learner, before, rollbacks = self._stack.members["learner"], self._epochs(), self._watch.rollbacks
        learner.kill()
        last = read_request(checkpoints)
        request = RollbackRequest(
            number=1 if last is None else last.number + 1,
            epoch=max(epoch_and_step(path.name)[0] for path in completed(checkpoints)),
            step=max(epoch_and_step(path.name)[1] for path in completed(checkpoints)),
            checkpoint=completed(checkpoints)[0].name,
            factor=1.0,
            rule="chaos",
            reason="a fault was injected",
        )
        (checkpoints / "rollback.json").write_text(json.dumps(asdict(request)))
        return [
            lambda: self._watch.rollbacks > rollbacks,
            Progress(lambda: self._epochs() > before, lambda: self._watch.steps),
        ]

    def _cut_fleet(self, fault: Fault) -> list[Condition]:
        index = fault.index % self._stack.plan.gateways
        self._stack.network.cut(self._stack.links[f"fleet-{index}"])
        return [self._acks_through(index)]

    def _cut_redis(self, fault: Fault) -> list[Condition]:
        self._stack.network.cut(self._stack.links["redis"])
        return [*self._all_acks(), self._steps()]

    def _silence_fleet(self, fault: Fault) -> list[Condition]:
        index = fault.index % self._stack.plan.gateways
        self._silence(f"fleet-{index}", fault)
        return [self._acks_through(index)]

    def _silence_redis(self, fault: Fault) -> list[Condition]:
        self._silence("redis", fault)
        return [*self._all_acks(), self._steps()]

    def _slow_redis(self, fault: Fault) -> list[Condition]:
        def sleep() -> None:
            with contextlib.suppress(redis.RedisError), contextlib.closing(redis.Redis.from_url(url)) as client:
                client.execute_command("DEBUG", "SLEEP", fault.lasts_s)

        url = self._stack.redis_url
        thread = threading.Thread(target=sleep)
        thread.start()
        self._stack.until(lambda: not thread.is_alive(), "end of DEBUG SLEEP", 30)
        return [*self._all_acks(), self._steps()]

    def _full_disk(self, fault: Fault) -> list[Condition]:
        """Forbids the learner to write files as large as its weights (EFBIG where a full disk says ENOSPC)."""
        pid = self._stack.members["learner"].child.pid
        limit = (self._stack.directory / "model/model.safetensors").stat().st_size // 2
        with _limited(pid, limit):
            self._last(fault)
        versions = self._watch.events["version"]
        return [self._steps(), lambda: self._watch.events["version"] > versions]

    def _silence(self, link: str, fault: Fault) -> None:
        self._stack.network.silence(self._stack.links[link], True)
        self._last(fault)
        if fault.index % 2:  # the cut is noticed in the end; or the network heals in time
            self._stack.network.cut(self._stack.links[link])
        self._stack.network.silence(self._stack.links[link], False)

    def _last(self, fault: Fault) -> None:
        end = time.monotonic() + fault.lasts_s
        self._stack.until(lambda: time.monotonic() > end, "time", fault.lasts_s + 60)

    def _name(self, fault: Fault) -> str:
        names = sorted(name for name in self._stack.members if name.partition("-")[0] == fault.target)
        return names[fault.index % len(names)]

    def _acks_through(self, gateway: int, ready: Condition = lambda: True) -> Condition:
        """A condition that holds once the producer without leases behind that gateway has received a new ack."""
        return Progress(ready, lambda: self._watch.acked(f"producer-{gateway}"))

    def _all_acks(self, ready: Condition = lambda: True) -> list[Condition]:
        return [self._acks_through(index, ready) for index in range(self._stack.plan.gateways)]

    def _steps(self) -> Condition:
        return Progress(lambda: True, lambda: self._watch.steps)


@contextlib.contextmanager
def _limited(pid: int, size: int) -> Iterator[None]:
    """Forbids a process to make a file larger than ``size`` bytes during the block."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def _wait_for(condition: Condition, timeout_s: float) -> None:
    """Polls ``condition`` without a pause; returns at the latest after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        pass
