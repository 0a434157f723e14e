"""Objectives by name: ours, and those of installed distributions (entry-point group ``leeway.objectives``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from learner.config.objective import GROUP, ObjectiveConfig, plugins
from learner.objectives.asympo import Asympo, RhoGuard
from learner.objectives.base import Objective
from learner.objectives.divergence import Dppo, Drpo, M2po
from learner.objectives.policy_gradient import Asymre, Opmd, Positives, Reinforce, Spo
from learner.objectives.ratio import Cispo, DrGrpo, Grpo, Tis
from learner.objectives.regularised import Regularised
from learner.objectives.sequence import Gspo, Topr
from learner.objectives.supervised import Sft
from runtime.settings import SettingsError


def _asympo(config: ObjectiveConfig) -> Objective:
    guard = RhoGuard(config.rho_max, config.rho_decay) if config.rho_max is not None else None
    return Asympo(config.scale_floor, config.p_low, config.p_high, guard)


def _dppo(config: ObjectiveConfig) -> Objective:
    bound = config.dppo_bound or {"tv": 0.15, "kl": 0.05}[config.dppo_divergence]
    return Dppo(config.dppo_divergence, bound)


def _clip(config: ObjectiveConfig) -> dict[str, float]:
    """The clip's bounds as far as they are set: the objective knows its source's."""
    bounds = {"low": config.clip_low, "high": config.clip_high}
    return {name: bound for name, bound in bounds.items() if bound is not None}


_BUILDERS: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "asympo": _asympo,
    "spo": lambda config: Spo(config.spo_alpha),
    "reinforce": lambda config: Reinforce(),
    "positives": lambda config: Positives(),
    "opmd": lambda config: Opmd(config.opmd_tau),
    "asymre": lambda config: Asymre(config.asymre_shift),
    "grpo": lambda config: Grpo(**_clip(config)),
    "dr_grpo": lambda config: DrGrpo(**_clip(config), length=config.dr_grpo_length),
    "tis": lambda config: Tis(config.tis_cap),
    "cispo": lambda config: Cispo(**_clip(config)),
    "gspo": lambda config: Gspo(**_clip(config)),
    "topr": lambda config: Topr(),
    "dppo": _dppo,
    "drpo": lambda config: Drpo(config.drpo_delta),
    "m2po": lambda config: M2po(config.m2po_threshold),
    "sft": lambda config: Sft(),
}


def names() -> list[str]:
    """The known objectives, ours and others'."""
    return sorted({*_BUILDERS, *plugins()})


def get(config: ObjectiveConfig) -> Objective:
    """The objective a configuration names, its constants bound, in the state of one that has seen no step.

    Raises:
        SettingsError: another distribution's entry point has the name of one of ours, or gave something that is not an
            Objective.
    """
    others = plugins()
    if config.name in _BUILDERS and config.name in others:
        raise SettingsError(f"{GROUP}: {others[config.name].value} takes the name of our {config.name!r}: rename it")
    build = _BUILDERS[config.name] if config.name in _BUILDERS else others[config.name].load()
    objective = build(config)
    if not isinstance(objective, Objective):
        raise SettingsError(
            f"{GROUP}: {config.name!r} gave a {type(objective).__name__}, not a learner.objectives.Objective"
        )
    if config.advantage is not None:
        objective.weighting = replace(objective.weighting, advantage=config.advantage)
    if config.kl_coef or config.entropy_coef:
        return Regularised(objective, config.kl_coef, config.entropy_coef)
    return objective
