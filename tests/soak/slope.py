"""Robust slopes of a soak's series, and the limits up to which they count as flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Rule = Literal["flat", "bounded", "reported"]
_MOST_POINTS = 600  # all pairs of so many are 180,000
_LEAST_POINTS = 8


@dataclass(frozen=True)
class Limit:
    """The condition under which a series passes.

    Attributes:
        rule: flat: the slope decides; bounded: the largest value decides; reported: no verdict.
        per_hour: flat: the steepest slope, in the series' unit per hour.
        share: flat: or this share of its median per hour, whichever is more.
        most: bounded: the largest value allowed.
        note: why.
    """

    rule: Rule
    per_hour: float = 0.0
    share: float = 0.0
    most: float = float("inf")
    note: str = ""


# Slopes that a day of running would not turn into trouble; what is smaller drowns in allocators' noise within an hour.
LIMITS: Mapping[str, Limit] = {
    "USS": Limit("flat", per_hour=16.0, share=0.03),
    "RSS": Limit("reported", note="not judged: it counts shared pages and mapped files too; USS is"),
    "descriptors": Limit("flat", per_hour=4.0),
    "threads": Limit("flat", per_hour=4.0),
    "used memory": Limit("flat", per_hour=8.0, share=0.05),
    "lasting keys": Limit(
        "flat",
        per_hour=2000.0,
        note="those without an expiry: groups on their way, up and down between two commits; ids are remembered for two "
        "minutes, as many as the rate makes. A forgotten limit would add 50,000 an hour",
    ),
    "append-only file": Limit("bounded", most=600.0, note="rewritten at 256 MB, or at twice its last size"),
    "redis": Limit("bounded", most=900.0, note="the append-only file, and its successor while it is rewritten"),
    "weights": Limit("flat", per_hour=8.0, share=0.05, note="publish.keep versions, and what fleets run"),
    "checkpoints": Limit("flat", per_hour=8.0, share=0.05, note="checkpoint.keep, one more while it is written"),
    "metrics": Limit(
        "reported",
        note="grows by design: a row per step, and which groups it trained (the audit's copy of the account)",
    ),
    "state": Limit(
        "reported", note="grows by design: ids whose acceptance the worker saw (the producer's side of the account)"
    ),
    "logs": Limit("reported", note="grow by design; rotate them where they are collected"),
    "config": Limit("flat", per_hour=0.1),
}


@dataclass(frozen=True)
class Finding:
    """Figures of one series; ``slope`` per hour, None with too few points."""

    owner: str
    measure: str
    first: float
    last: float
    most: float
    slope: float | None
    limit: Limit
    points: int

    @property
    def passes(self) -> bool | None:
        """Whether the series keeps its limit; None where there is nothing to judge."""
        if self.limit.rule == "bounded":
            return self.most <= self.limit.most
        if self.limit.rule == "reported" or self.slope is None:
            return None
        return self.slope <= max(self.limit.per_hour, self.limit.share * max(self.first, self.last))


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """Median of the slopes between all pairs of points, robust to outliers (Theil 1950, Sen 1968)."""
    t, v = np.asarray(times, float), np.asarray(values, float)
    if len(t) > _MOST_POINTS:
        chosen = np.linspace(0, len(t) - 1, _MOST_POINTS).astype(int)
        t, v = t[chosen], v[chosen]
    i, j = np.triu_indices(len(t), k=1)
    apart = t[j] > t[i]
    return float(np.median((v[j] - v[i])[apart] / (t[j] - t[i])[apart]))


def judge(samples: Sequence[Mapping[str, float]], warmup_s: float) -> list[Finding]:
    """Returns a finding for every series that outlives the warm-up.

    Args:
        samples: results of ``Probe.take``, each with "time" in seconds since the start.
        warmup_s: samples before it count for nothing.
    """
    steady = [sample for sample in samples if sample["time"] >= warmup_s]
    names = dict.fromkeys(name for sample in steady for name in sample if "|" in name and not name.endswith("|pid"))
    findings = []
    for name in names:
        rows = [(sample["time"], sample[name]) for sample in steady if name in sample]
        if len(rows) < 0.5 * len(steady):
            continue  # a helper that came and went
        times, values = zip(*rows, strict=True)
        owner, _, measure = name.partition("|")
        slope = 3600 * theil_sen(times, values) if len(rows) >= _LEAST_POINTS else None
        limit = LIMITS[measure]
        findings.append(Finding(owner, measure, values[0], values[-1], max(values), slope, limit, len(rows)))
    return findings


def restarts(samples: Sequence[Mapping[str, float]], warmup_s: float) -> dict[str, int]:
    """Counts changes of a process's pid after the warm-up: a series over two processes says nothing about either."""
    changed: dict[str, int] = {}
    last: dict[str, float] = {}
    for sample in samples:
        for name, value in sample.items():
            if name.endswith("|pid") and sample["time"] >= warmup_s:
                owner = name.removesuffix("|pid")
                changed[owner] = changed.get(owner, 0) + (owner in last and last[owner] != value)
                last[owner] = value
    return {owner: count for owner, count in changed.items() if count}
