"""Builds objectives by name: ours, and those of installed distributions (entry-point group ``leeway.objectives``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from learner.config.objective import GROUP, ObjectiveConfig, plugins
from learner.objectives.asympo import Asympo, RhoGuard
from learner.objectives.base import Objective
from learner.objectives.divergence import Dppo, Drpo
from learner.objectives.policy_gradient import Asymre, Opmd, Positives, Reinforce, Spo
from learner.objectives.ratio import Cispo, DrGrpo, Grpo, Tis
from learner.objectives.regularised import Regularised
from learner.objectives.second_moment import M2po
from learner.objectives.sequence import Gspo, Topr
from learner.objectives.supervised import Sft
from runtime.settings import SettingsError


def _asympo(config: ObjectiveConfig) -> Objective:
    guard = RhoGuard(config.rho_max, config.rho_decay) if config.rho_max is not None else None
    return Asympo(config.scale_floor, config.p_low, config.p_high, guard)


def _dppo(config: ObjectiveConfig) -> Objective:
    usual = {"tv": 0.15, "kl": 0.05}[config.dppo_divergence]
    return Dppo(config.dppo_divergence, config.dppo_low or usual, config.dppo_high or usual, config.dppo_kl)


def _dr_grpo(config: ObjectiveConfig) -> Objective:
    return DrGrpo(**_clip(config), dual=config.dual_clip, length=config.dr_grpo_length or _LENGTH)


def _clip(config: ObjectiveConfig) -> dict[str, float]:
    """The clip's bounds that are set; for the others the objective's own defaults hold."""
    bounds = {"low": config.clip_low, "high": config.clip_high}
    return {name: bound for name, bound in bounds.items() if bound is not None}


_LENGTH = 1024  # divisor of dr_grpo where no run file says how many tokens a response may have

# The same names as learner.config.objectives_table.
BUILDERS: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "asympo": _asympo,
    "spo": lambda config: Spo(config.spo_alpha),
    "reinforce": lambda config: Reinforce(),
    "positives": lambda config: Positives(),
    "opmd": lambda config: Opmd(config.opmd_tau),
    "asymre": lambda config: Asymre(config.asymre_shift),
    "grpo": lambda config: Grpo(**_clip(config), dual=config.dual_clip),
    "dr_grpo": _dr_grpo,
    "tis": lambda config: Tis(config.tis_cap),
    "cispo": lambda config: Cispo(**_clip(config)),
    "gspo": lambda config: Gspo(**_clip(config)),
    "topr": lambda config: Topr(),
    "dppo": _dppo,
    "drpo": lambda config: Drpo(config.drpo_delta),
    "m2po": lambda config: M2po(config.m2po_threshold, config.m2po_over),
    "sft": lambda config: Sft(),
}


def names() -> list[str]:
    """Names of all known objectives, ours and those of installed distributions, in alphabetical order."""
    return sorted({*BUILDERS, *plugins()})


def get(config: ObjectiveConfig) -> Objective:
    """Builds the objective that a configuration names, with its constants, in the state before the first step.

    Raises:
        SettingsError: an installed distribution's entry point has the name of one of our objectives, or returned something
            that is not an Objective; or the KL is to be weighted by a ratio that the objective does not have.
    """
    others = plugins()
    if config.name in BUILDERS and config.name in others:
        raise SettingsError(
            f"{GROUP}: {others[config.name].value} takes the name of our objective {config.name!r}: rename it"
        )
    build = BUILDERS[config.name] if config.name in BUILDERS else others[config.name].load()
    objective = build(config)
    if not isinstance(objective, Objective):
        raise SettingsError(
            f"{GROUP}: {config.name!r} returned a {type(objective).__name__}, not a learner.objectives.Objective"
        )
    if config.advantage is not None:
        objective.weighting = replace(objective.weighting, advantage=config.advantage)
    if config.mean is not None:
        objective.weighting = replace(objective.weighting, mean=config.mean)
    if config.kl_estimator == "k3_weighted" and not objective.needs_behaviour:
        raise SettingsError(
            f"kl_estimator = 'k3_weighted': {config.name} has no behaviour probabilities to take a ratio with; use 'k3'"
        )
    if config.kl_coef or config.entropy_coef:
        return Regularised(
            objective, config.kl_coef, config.entropy_coef, weighted=config.kl_estimator == "k3_weighted"
        )
    return objective
