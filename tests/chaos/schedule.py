"""Which faults, in which order: everything about a chaos run that its seed decides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KILLS = {"gateway": 26, "redis": 22, "producer": 22, "learner": 20, "worker": 10}  # per hundred
# Where a learner dies: at a random moment, or as soon as a sign of that phase is seen.
AIMS = ("any", "checkpoint", "publish", "start", "any", "checkpoint")
OTHERS = (
    "freeze gateway",
    "freeze redis",
    "freeze learner",
    "zombie learner",
    "cut fleet",
    "silence fleet",
    "cut redis",
    "silence redis",
    "slow redis",
    "full disk",
    "rollback learner",
)


@dataclass(frozen=True)
class Fault:
    """A fault to inject.

    Attributes:
        number: its position in the schedule, from 1.
        kind: "kill", or what else is done ("freeze", "cut", ...).
        target: "gateway", "redis", "learner", "producer", "worker", "fleet" (its network) or "disk".
        index: which of several targets: to be taken modulo their number.
        aim: where a learner is when it dies or freezes, see AIMS.
        wait_s: pause before it, so that it meets any phase.
        lasts_s: duration of faults that end by themselves, in seconds.
    """

    number: int
    kind: str
    target: str
    index: int
    aim: str = "any"
    wait_s: float = 0.0
    lasts_s: float = 0.0

    def __str__(self) -> str:
        aim = f" at its {self.aim}" if self.aim != "any" else ""
        lasts = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.number}. {self.kind} {self.target} {self.index}{aim}{lasts}, after {self.wait_s:.2f} s"


def schedule(kills: int, seed: int, targets: Sequence[str], other_every: int = 5) -> list[Fault]:
    """Draws a sequence with exactly ``kills`` kills and another fault after every ``other_every`` of them.

    Args:
        kills: SIGKILLs in all; each target gets its share, rounded, and at least one where there are enough.
        seed: decides the whole schedule.
        targets: keys of KILLS that the stack has.
        other_every: 0 for kills only.
    """
    draw = random.Random(seed)
    names = _shares(kills, targets)
    draw.shuffle(names)
    others = _cycle(OTHERS, draw)
    aims = _cycle(AIMS, draw)
    faults: list[Fault] = []
    for count, name in enumerate(names, 1):
        aim = next(aims) if name == "learner" else "any"
        wait = draw.uniform(0.0, 2.0 if name == "learner" else 0.5)
        faults.append(Fault(len(faults) + 1, "kill", name, draw.randrange(1000), aim, wait))
        if other_every and count % other_every == 0:
            kind, target = next(others).split()
            last = draw.uniform(1.0, 2.0) if kind == "slow" else draw.uniform(1.5, 4.0)
            lasts = 0.0 if kind in ("cut", "rollback") else last
            faults.append(
                Fault(len(faults) + 1, kind, target, draw.randrange(1000), "any", draw.uniform(0, 0.5), lasts)
            )
    return faults


def _shares(kills: int, targets: Sequence[str]) -> list[str]:
    """Divides ``kills`` among the targets in proportion to KILLS, by largest remainders."""
    total = sum(KILLS[target] for target in targets)
    exact = {target: kills * KILLS[target] / total for target in targets}
    counts = {target: max(int(share), 1 if kills >= len(targets) else 0) for target, share in exact.items()}
    while sum(counts.values()) != kills:
        step = 1 if sum(counts.values()) < kills else -1
        able = [target for target in targets if step > 0 or counts[target] > 1]
        counts[max(able, key=lambda target: step * (exact[target] - counts[target]))] += step
    return [target for target in targets for _ in range(counts[target])]


def _cycle(items: Sequence[str], draw: random.Random):
    """Yields all items in a random order, then again in another one, without end."""
    while True:
        order = list(items)
        draw.shuffle(order)
        yield from order
