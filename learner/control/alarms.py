"""Alarms on the conditions that precede or accompany a collapse of training. Pure: rows of steps in, alarms out.

Every rule looks at exponential means over about a window of steps. An alarm is raised once, and again only after its
condition has not held for a whole window. Measurements behind the rules: a rising NLL of positives comes first (on `sort` at
a staleness of 9 it was eight times its start six steps before the reward fell); rho near 1 is the cause where rewards are
balanced; entropy and gradient norm alone do not tell a healthy run from a collapsing one.

A fall of the reward is measured in the reward's own units: against its rise so far and the spread of a step's rewards. So it
does not matter what scale rewards have, nor where their zero is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from learner.config.control import AlarmAction, AlarmConfig
from learner.control.expert_loads import ExpertLoads
from learner.control.fleet_weights import FleetWeights
from learner.control.tracked_mean import TrackedMean

Row = Mapping[str, Any]
# rho is clipped before averaging: with few positives it is unbounded, and above 1 larger values carry no information.
_CEILING = {"rho": 1.0}
_ROUNDING = 1e-6  # of a reward: less is no fall


@dataclass(frozen=True)
class Alarm:
    """A rule whose condition has begun to hold.

    Attributes:
        rule: name of the rule, a field of AlarmConfig.
        action: what the configuration says to do about it.
        reason: the condition and its numbers, in one sentence for people.
    """

    rule: str
    action: AlarmAction
    reason: str


class Alarms:
    """Watches the step rows of a run, as metrics/learner.jsonl keeps them; fields that are None or missing are ignored.

    Every rank gives it the same rows and so gets the same alarms.
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
            "dominance": self._dominance,
            "experts": self._overloaded,
        }
        means = [name for name in self._rules if name not in ("non_finite", "dominance", "experts")]
        self._means = {name: TrackedMean(config.window) for name in [*means, "reward_sd"]}
        self._fleets = FleetWeights(config.window)
        self._experts = ExpertLoads(config.window)
        self._non_finite_flags: deque[bool] = deque(maxlen=config.window)
        self._active: dict[str, int] = {}  # rule -> steps since its condition last held

    def configure(self, config: AlarmConfig) -> None:
        """Takes other actions and limits, and keeps what the rules have seen; the window must stay what it is."""
        self._config = config

    def observe(self, row: Row) -> list[Alarm]:
        """Records a step's row and returns the alarms that it raises."""
        self._non_finite_flags.append(not row.get("finite", True))
        self._fleets.add(row.get("fleets") or {})
        self._experts.add(row.get("expert_load") or {})
        for name, mean in self._means.items():
            value = row.get(name)
            if value is not None and math.isfinite(value):
                mean.add(min(float(value), _CEILING.get(name, math.inf)))
        raised = []
        for rule, check in self._rules.items():
            action: AlarmAction = getattr(self._config, rule)
            reason = check() if action != "off" else None
            if reason is not None:
                if rule not in self._active:
                    raised.append(Alarm(rule, action, reason))
                self._active[rule] = 0
            elif rule in self._active:
                self._active[rule] += 1
                if self._active[rule] >= self._config.window:
                    del self._active[rule]
        return raised

    @property
    def has_active(self) -> bool:
        """Whether the condition of any rule holds, or has held within the last window."""
        return bool(self._active)

    def reset(self) -> None:
        """Forgets every row, as after a change of the learning rate: they say nothing about the steps to come."""
        for mean in self._means.values():
            mean.clear()
        self._fleets.clear()
        self._experts.clear()
        self._non_finite_flags.clear()
        self._active.clear()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: JSON values."""
        means = {name: mean.state_dict() for name, mean in self._means.items()}
        return {
            "means": means,
            "fleets": self._fleets.state_dict(),
            "experts": self._experts.state_dict(),
            "non_finite": list(self._non_finite_flags),
            "active": dict(self._active),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        for name, mean in self._means.items():
            mean.load_state_dict(state["means"][name])
        self._fleets.load_state_dict(state["fleets"])
        self._experts.load_state_dict(state["experts"])
        self._non_finite_flags.clear()
        self._non_finite_flags.extend(state["non_finite"])
        self._active = dict(state["active"])

    def _positives(self) -> str | None:
        """Returns the reason for an alarm of the positives' NLL, which must have risen to where it began, or above.

        As a policy converges only hard prompts keep a contrast, so that the NLL may double from a tiny lowest value while all
        is well; one that collapses goes far beyond its start.
        """
        nll, limit = self._means["nll_positive"], self._config.nll_rise
        if nll.mean is None or nll.first is None or nll.mean <= limit * nll.lowest or nll.mean < nll.first:
            return None
        return f"the NLL of positives has risen to {nll.mean:.3g} nats/token, from {nll.lowest:.3g} at its lowest"

    def _rho(self) -> str | None:
        mean, limit = self._means["rho"].mean, self._config.rho_limit
        if mean is None or mean <= limit:
            return None
        return (
            f"rho, the weight of negatives against positives, is {mean:.2f}; above {limit:g} training is impaired: lower "
            "objective.rho_max (asympo) or objective.spo_alpha (spo)"
        )

    def _ballistic(self) -> str | None:
        mean, limit = self._means["ballistic"].mean, self._config.ballistic_limit
        if mean is None or mean <= limit:
            return None
        return f"consecutive updates point the same way: cosine {mean:.2f} beyond momentum, above {limit:g}"

    def _reward(self) -> str | None:
        reward, found = self._means["reward"], self._reward_fall()
        if found is None or found[0] <= self._config.reward_fall * found[1]:
            return None
        return (
            f"the mean reward has fallen to {reward.mean:.3g}, from {reward.highest:.3g} at its best; the larger of its rise "
            f"before and the spread of rewards is {found[1]:.3g}"
        )

    def _reward_fall(self) -> tuple[float, float] | None:
        """Returns how far the mean reward is below its best, and what that is measured against; None if it is not known.

        The yardstick is the larger of the mean's rise from its first value to its best, and the standard deviation of a
        step's rewards, now: where all rewards have become equal, little of it is noise.
        """
        reward, deviation = self._means["reward"], self._means["reward_sd"]
        if reward.mean is None or reward.first is None or deviation.mean is None:
            return None
        rounding = _ROUNDING * max(abs(reward.highest), abs(reward.mean))
        return reward.highest - reward.mean, max(reward.highest - reward.first, deviation.mean, rounding)

    def _entropy(self) -> str | None:
        """Returns the reason for an entropy alarm. Low entropy alone is none: near the best reward it is convergence."""
        entropy, reward, found = self._means["entropy"], self._means["reward"], self._reward_fall()
        if entropy.mean is None or entropy.first is None or entropy.mean >= self._config.entropy_fall * entropy.first:
            return None
        if found is None or found[0] <= self._config.reward_fall / 2 * found[1]:
            return None
        return (
            f"the entropy has fallen to {entropy.mean:.2g} nats/token, from {entropy.first:.2g}, and the mean reward to "
            f"{reward.mean:.3g}, from {reward.highest:.3g}"
        )

    def _non_finite(self) -> str | None:
        count, limit = sum(self._non_finite_flags), self._config.non_finite_steps
        return f"{count} of the last {self._config.window} steps were not finite" if count >= limit else None

    def _dominance(self) -> str | None:
        found, limit = self._fleets.dominant(), self._config.dominance_limit
        if found is None or found[1] <= limit:
            return None
        fleet, ratio, share = found
        return (
            f"fleet {fleet} dominates the gradient: one of its groups weighs {ratio:.3g} times one of the others', and all "
            f"of them {share:.0%} of the whole: look at its temperature, its rewards and its responses' likelihood"
        )

    def _overloaded(self) -> str | None:
        found = self._experts.risen()
        if found is None or found.now <= self._config.experts_rise * found.first:
            return None
        return (
            f"the routing of layer {found.layer} narrows: its busiest expert has {found.now:.3g} times the tokens of the "
            f"mean expert, {found.first:.3g} times at first"
        )
