"""Which settings may be changed while a run goes on, by whom they are applied, and how a change is validated.

A changed setting is validated as the run file is: the whole settings, with the change in them, are parsed by the same
classes, with every check across sections. Values are JSON. Names are the run file's, without "learner.".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from learner.config.control import AlarmConfig
from learner.config.gateway import GatewayConfig, QuotaConfig
from learner.config.learner import LearnerConfig
from runtime.errors import LeewayError
from runtime.settings import Settings, SettingsError

Owner = Literal["learner", "gateway"]
T = TypeVar("T", bound=Settings)

_ADMISSION = "gateway.admission."
_WEIGHTS = "weights."
_QUOTAS = _ADMISSION + "quotas."
_GATEWAY_WEIGHTS = _ADMISSION + "weights."

_OBJECTIVE = (
    *("scale_floor", "p_low", "p_high", "rho_max", "rho_decay", "spo_alpha", "opmd_tau", "asymre_shift", "clip_low"),
    *("clip_high", "dual_clip", "dr_grpo_length", "tis_cap", "dppo_low", "dppo_high", "dppo_kl", "drpo_delta"),
    *("m2po_threshold", "kl_coef", "entropy_coef"),
)
_LR_CONTROL = ("drift_target", "drift_every", "drift_share", "drift_growth", "drift_decay", "gac_limit")
_LEARNER = frozenset(
    {
        *("steps", "optimizer.lr", "optimizer.clip_grad", "optimizer.weight_decay"),
        *("checkpoint.every", "checkpoint.keep", "publish.every", "publish.keep"),
        *(f"objective.{name}" for name in _OBJECTIVE),
        *(f"lr_control.{name}" for name in _LR_CONTROL),
        # The window sizes the alarms' memory, which a checkpoint contains.
        *(f"alarms.{name}" for name in AlarmConfig.model_fields if name != "window"),
    }
)
_GATEWAY = frozenset(
    {
        *(_ADMISSION + name for name in ("max_queued_groups", "max_queued_bytes")),
        *(f"{_ADMISSION}quota.{name}" for name in QuotaConfig.model_fields),
    }
)
# Coefficients of terms that are built, or not, when the learner starts: the reference is frozen, the entropy computed.
_TERMS = ("kl_coef", "entropy_coef")
_REASONS = {
    "objective.name": "its state, its weighting and what is recomputed for it are set up when the learner starts",
    "groups_per_step": "leases, batches and the queue are sized by it when the learner and the gateways start",
    "max_staleness": "leases, caches of versions and expiry are sized by it when the learner and the gateways start",
    "model": "a run has one model",
    "lr_control.mode": "what it measures is set up when the learner starts",
    "lr_control.drift_start": "it is read once, in a run's first step",
    "alarms.window": "it sizes the alarms' memory, which checkpoints contain",
}


class ChangeError(LeewayError):
    """A change that cannot be made. The message names the setting, its value and what to do."""


@dataclass(frozen=True)
class Changed(Generic[T]):
    """Settings with a change in them.

    Attributes:
        config: the whole settings.
        old: the changed settings' values before, as JSON.
        new: their values now; of a setting that was given back, the run file's.
    """

    config: T
    old: dict[str, str]
    new: dict[str, str]


def changeable() -> list[str]:
    """Returns the names of the settings that may be changed, sorted; <fleet> stands for any fleet's name."""
    quotas = [f"{_QUOTAS}<fleet>.{name}" for name in QuotaConfig.model_fields]
    return sorted([*_LEARNER, *_GATEWAY, *quotas, f"{_WEIGHTS}<fleet>"])


def owner(name: str) -> Owner:
    """Returns who applies a setting: the learner, between two steps, or every gateway, within a second.

    The weight of a fleet is applied by both, once the learner has.

    Raises:
        ChangeError: it cannot be changed while a run goes on.
    """
    if name in _LEARNER or (name.startswith(_WEIGHTS) and name != _WEIGHTS):
        return "learner"
    fleet, _, field = name.removeprefix(_QUOTAS).rpartition(".")
    if name in _GATEWAY or (name.startswith(_QUOTAS) and fleet and field in QuotaConfig.model_fields):
        return "gateway"
    if name.startswith(_GATEWAY_WEIGHTS):
        raise ChangeError(
            f"{name}: the learner and the gateways have one weight of a fleet: set {_WEIGHTS}{name[len(_GATEWAY_WEIGHTS) :]}"
        )
    if name.startswith("learner."):
        raise ChangeError(f"{name}: names stand without learner.: write {name.removeprefix('learner.')}")
    why = _REASONS.get(name, "no running process could apply it")
    raise ChangeError(
        f"{name} cannot be changed while the run goes on: {why}; change the run file and start again, or choose one of "
        f"{', '.join(changeable())}"
    )


def is_gateways(name: str) -> bool:
    """Whether gateways alone apply a setting; False for one that this release does not know."""
    try:
        return owner(name) == "gateway"
    except ChangeError:
        return False


def learner_config(base: LearnerConfig, in_force: Mapping[str, str]) -> LearnerConfig:
    """Returns the learner's settings with those that operators have changed; settings of gateways alone are left out.

    Args:
        base: settings of the run file.
        in_force: name -> value as JSON.

    Raises:
        ChangeError: a value is no JSON or does not fit.
    """
    config = _parsed(base, {name: text for name, text in in_force.items() if owner(name) == "learner"}, "")
    for name in _TERMS:
        before, now = getattr(base.objective, name), getattr(config.objective, name)
        if bool(before) != bool(now):
            raise ChangeError(
                f"objective.{name} = {now:g}: the run file has {before:g}, and a running learner turns this term neither on "
                f"nor off; {'choose a value above 0' if before else 'leave it'}, or change the run file and start again"
            )
    return config


def gateway_config(base: GatewayConfig, in_force: Mapping[str, str]) -> GatewayConfig:
    """Returns a gateway's settings with those that operators have changed, the weights of fleets among them.

    Args:
        base: settings of the gateway's file.
        in_force: name -> value as JSON; settings of the learner alone are left out, and those that only a newer release
            knows: the learner gives them up when it starts.

    Raises:
        ChangeError: a value is no JSON or does not fit.
    """
    own = {name: text for name, text in in_force.items() if is_gateways(name)}
    weights = {name: text for name, text in in_force.items() if name.startswith(_WEIGHTS)}
    renamed = {_ADMISSION + name: text for name, text in weights.items()}
    return _parsed(base, {**own, **renamed}, "gateway.")


def change_learner(
    base: LearnerConfig, in_force: Mapping[str, str], values: Mapping[str, str], removed: Iterable[str] = ()
) -> Changed[LearnerConfig]:
    """Changes settings of a learner, all or none.

    Args:
        base: settings of the run file.
        in_force: what operators have changed before.
        values: name -> value as JSON; settings of gateways among them are not looked at.
        removed: names that get the run file's values back.

    Raises:
        ChangeError: one of them cannot be changed, or does not fit.
    """
    names = _named(in_force, values, removed)
    kept = {name: text for name, text in in_force.items() if name not in set(removed)}
    before = learner_config(base, in_force)
    after = learner_config(base, {**kept, **values})
    return Changed(after, _shown(before, "", in_force, names), _shown(after, "", {**kept, **values}, names))


def change_gateway(
    base: GatewayConfig, in_force: Mapping[str, str], values: Mapping[str, str], removed: Iterable[str] = ()
) -> Changed[GatewayConfig]:
    """Changes settings of a gateway, all or none; see ``change_learner``."""
    names = _named(in_force, values, removed)
    kept = {name: text for name, text in in_force.items() if name not in set(removed)}
    before = gateway_config(base, in_force)
    after = gateway_config(base, {**kept, **values})
    return Changed(
        after, _shown(before, "gateway.", in_force, names), _shown(after, "gateway.", {**kept, **values}, names)
    )


def fitting(base: LearnerConfig, in_force: Mapping[str, str]) -> tuple[LearnerConfig, dict[str, str]]:
    """Applies as many of the changed settings as still fit the run file, which may have been edited since.

    Returns:
        The settings; and name -> reason of each that does not fit.
    """
    kept: dict[str, str] = {}
    try:
        return learner_config(base, in_force), {}
    except ChangeError:
        pass
    refused: dict[str, str] = {}
    for name in sorted(in_force):
        try:
            learner_config(base, {**kept, name: in_force[name]})
            kept[name] = in_force[name]
        except ChangeError as error:
            refused[name] = str(error)
    return learner_config(base, kept), refused


def _parsed(base: T, changes: Mapping[str, str], prefix: str) -> T:
    """Parses settings again with changes in them; ``prefix`` is what names begin with that the settings do not have."""
    values = base.model_dump()
    for name, text in changes.items():
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:  # the latter where it is nested too deeply
            raise ChangeError(f"{name} = {text[:80]}: expected a JSON value ({error})") from error
        *sections, leaf = _path(name.removeprefix(prefix))
        target: Any = values
        for section in sections:
            target = target.setdefault(section, {})
        target[leaf] = value
    try:
        return type(base).parse(values, source=f"the change of {', '.join(sorted(changes)) or 'no setting'}")
    except SettingsError as error:
        raise ChangeError(f"{error}; the run goes on as it was: choose a value that fits") from error


def _path(name: str) -> Sequence[str]:
    """Parts of a name; the name of a fleet, in which there may be dots, is one."""
    for table, fields in (("weights.", 0), ("admission.weights.", 0), ("admission.quotas.", 1)):
        if name.startswith(table):
            rest = name[len(table) :]
            fleet, _, field = rest.rpartition(".") if fields else (rest, "", "")
            return [*table.rstrip(".").split("."), fleet, *([field] if fields else [])]
    return name.split(".")


def _named(in_force: Mapping[str, str], values: Mapping[str, str], removed: Iterable[str]) -> list[str]:
    """Names of a change's settings. What is in force may be removed even if this release does not know it.

    Raises:
        ChangeError: one of them cannot be changed.
    """
    names = [*values, *removed]
    for name in names:
        if name in values or name not in in_force:
            owner(name)
    return names


def _shown(config: Settings, prefix: str, in_force: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Values of settings as JSON: of those of other processes, what is in force; a fleet's default is left out."""
    values, shown = config.model_dump(mode="json"), {}
    for name in names:
        if is_gateways(name) != bool(prefix) or (prefix and name.startswith(_WEIGHTS)):
            if name in in_force:
                shown[name] = in_force[name]
            continue
        found: Any = values
        for part in _path(name.removeprefix(prefix)):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None or name in in_force:
            shown[name] = json.dumps(found)
    return shown
