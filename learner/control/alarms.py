"""Signs of a coming collapse. Pure: rows of steps in, alarms out.

Every rule looks at exponential means over about a window of steps. An alarm is raised once, and again only after its sign was
gone for a whole window. What was measured behind the rules: the NLL of positives rising is the early sign (on `sort` at a
staleness of 9 it was eight times its start six steps before the reward fell), rho near 1 is the cause where rewards are
balanced, entropy and gradient norm alone do not separate.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from learner.config.control import AlarmAction, AlarmConfig

Row = Mapping[str, Any]
_CEILING = {"rho": 1.0}  # a ratio that may be anything where positives hardly count; at 1 training collapses already


@dataclass(frozen=True)
class Alarm:
    """A rule that has begun to hold, what is to be done, and the numbers behind it in a sentence."""

    rule: str
    action: AlarmAction
    reason: str


class Alarms:
    """Watches the step rows of a run, as metrics/learner.jsonl keeps them; fields that are None or missing are passed over.

    Fed the same rows it comes to the same alarms on every rank.
    """

    def __init__(self, config: AlarmConfig) -> None:
        self._config = config
        self._rules: dict[str, Callable[[], str | None]] = {
            "nll_positive": self._positives,
            "rho": self._rho,
            "ballistic": self._ballistic,
            "reward": self._reward,
            "entropy": self._entropy,
            "non_finite": self._non_finite,
        }
        self._tracks = {name: Track(config.window) for name in self._rules if name != "non_finite"}
        self._broken: deque[bool] = deque(maxlen=config.window)
        self._standing: dict[str, int] = {}  # rule -> steps for which its sign has been gone

    def observe(self, row: Row) -> list[Alarm]:
        """The alarms that this step's row raises."""
        self._broken.append(not row.get("finite", True))
        for name, track in self._tracks.items():
            value = row.get(name)
            if value is not None and math.isfinite(value):
                track.add(min(float(value), _CEILING.get(name, math.inf)))
        raised = []
        for rule, check in self._rules.items():
            action: AlarmAction = getattr(self._config, rule)
            reason = check() if action != "off" else None
            if reason is not None:
                if rule not in self._standing:
                    raised.append(Alarm(rule, action, reason))
                self._standing[rule] = 0
            elif rule in self._standing:
                self._standing[rule] += 1
                if self._standing[rule] >= self._config.window:
                    del self._standing[rule]
        return raised

    @property
    def has_active(self) -> bool:
        """Whether a sign is there, or was within the last window."""
        return bool(self._standing)

    def forget(self) -> None:
        """Starts anew: what was seen says nothing about what comes."""
        for track in self._tracks.values():
            track.clear()
        self._broken.clear()
        self._standing.clear()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: JSON values."""
        tracks = {name: track.state_dict() for name, track in self._tracks.items()}
        return {"tracks": tracks, "broken": list(self._broken), "standing": dict(self._standing)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``'s answer."""
        for name, track in self._tracks.items():
            track.load_state_dict(state["tracks"][name])
        self._broken.clear()
        self._broken.extend(state["broken"])
        self._standing = dict(state["standing"])

    def _positives(self) -> str | None:
        track, limit = self._tracks["nll_positive"], self._config.nll_rise
        if track.mean is None or track.mean <= limit * track.lowest:
            return None
        return f"the NLL of positives has risen to {track.mean:.3g} nats/token, from {track.lowest:.3g} at its lowest"

    def _rho(self) -> str | None:
        mean, limit = self._tracks["rho"].mean, self._config.rho_limit
        if mean is None or mean <= limit:
            return None
        return (
            f"rho, the weight of negatives against positives, is {mean:.2f}; above {limit:g} training is impaired: lower "
            "objective.rho_max (asympo) or objective.spo_alpha (spo)"
        )

    def _ballistic(self) -> str | None:
        mean, limit = self._tracks["ballistic"].mean, self._config.ballistic_limit
        if mean is None or mean <= limit:
            return None
        return f"consecutive updates point the same way: cosine {mean:.2f} beyond momentum, above {limit:g}"

    def _reward(self) -> str | None:
        track, limit = self._tracks["reward"], self._config.reward_fall
        if track.mean is None or track.highest <= 0 or track.mean >= limit * track.highest:
            return None
        return f"the mean reward has fallen to {track.mean:.3g}, from {track.highest:.3g} at its best"

    def _entropy(self) -> str | None:
        """Little entropy at the best reward ever is convergence."""
        track, reward = self._tracks["entropy"], self._tracks["reward"]
        if track.mean is None or track.first is None or track.mean >= self._config.entropy_fall * track.first:
            return None
        if reward.mean is None or reward.mean >= 0.9 * reward.highest:
            return None
        return (
            f"the entropy has fallen to {track.mean:.2g} nats/token, from {track.first:.2g}, and the mean reward to "
            f"{reward.mean:.3g}, from {reward.highest:.3g}"
        )

    def _non_finite(self) -> str | None:
        count, limit = sum(self._broken), self._config.non_finite_steps
        return f"{count} of the last {self._config.window} steps were not finite" if count >= limit else None


class Track:
    """A quantity's exponential mean over about ``window`` values, its first, highest and lowest.

    The mean counts from half a window on, except as the lowest: a collapse may begin with the second step.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self.clear()

    @property
    def mean(self) -> float | None:
        return self._sum / self._weight if self._count >= self._window // 2 else None

    def add(self, value: float) -> None:
        keep = 1 - 1 / self._window
        self._count += 1
        self._sum = keep * self._sum + value
        self._weight = keep * self._weight + 1
        self.lowest = min(self.lowest, self._sum / self._weight)
        if self.mean is not None:
            self.first = self.mean if self.first is None else self.first
            self.highest = max(self.highest, self.mean)

    def clear(self) -> None:
        self._count, self._sum, self._weight = 0, 0.0, 0.0
        self.first: float | None = None
        self.lowest, self.highest = math.inf, -math.inf

    def state_dict(self) -> dict[str, Any]:
        """JSON values: no infinity."""
        if not self._count:
            return {}
        highest = None if self.first is None else self.highest
        return {
            "count": self._count,
            "sum": self._sum,
            "weight": self._weight,
            "first": self.first,
            "lowest": self.lowest,
            "highest": highest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clear()
        if state:
            self._count, self._sum, self._weight = state["count"], state["sum"], state["weight"]
            self.first, self.lowest = state["first"], state["lowest"]
            self.highest = -math.inf if state["highest"] is None else state["highest"]
