"""Objectives by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from learner.config import ObjectiveConfig
from learner.objectives import policy_gradient, supervised
from learner.objectives.base import Objective

_BUILDERS: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "asympo": lambda config: partial(
        policy_gradient.asympo, floor=config.scale_floor, p_low=config.p_low, p_high=config.p_high
    ),
    "spo": lambda config: partial(policy_gradient.spo, alpha=config.spo_alpha),
    "reinforce": lambda config: policy_gradient.reinforce,
    "sft": lambda config: supervised.sft,
}


def names() -> list[str]:
    """The known objectives."""
    return sorted(_BUILDERS)


def get(config: ObjectiveConfig) -> Objective:
    """The objective a configuration names, its constants bound."""
    return _BUILDERS[config.name](config)
