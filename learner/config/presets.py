"""Presets: settings of the section [learner] that belong together, chosen by one name. Needs no torch.

``learner.objective.preset = "steady"`` puts that table under what a file sets: a key that the file sets wins, the others come
from the table, and what neither has is the default. A file that names neither a preset nor an objective gets DEFAULT_PRESET.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Preset:
    """One table of settings.

    Attributes:
        summary: what it is, in one line.
        source: where its values were read.
        settings: keys of the section [learner], nested as its tables are; objective.name is always there.
    """

    summary: str
    source: str
    settings: Mapping[str, Any]

    @property
    def objective(self) -> str:
        """Name of the objective that it is for."""
        return self.settings["objective"]["name"]

    def flat(self) -> dict[str, Any]:
        """Every key below [learner], such as ``objective.name``, with its value."""
        return dict(_leaves(self.settings, ""))


_VERL = "verl: clip_ratio, clip_ratio_c and loss_agg_mode of its actor.yaml; torch.std in its GRPO advantage"
_GRPO_OF_VERL = {"name": "grpo", "advantage": "std_unbiased", "mean": "batch"}

DEFAULT_PRESET = "steady"  # docs/evidence.md says why: nothing in it has to be tuned to the task or to the staleness

PRESETS: dict[str, Preset] = {
    "asympo": Preset(
        summary="ASymPO with our guard, which keeps the negatives' weight within a tenth of the positives'.",
        source="arXiv 2606.03070v3; the guard is ours",
        settings={"objective": {"name": "asympo", "rho_max": 0.1}},
    ),
    "asympo-paper": Preset(
        summary="ASymPO as published, without a bound on the negatives.",
        source="arXiv 2606.03070v3",
        settings={"objective": {"name": "asympo", "rho_max": "off"}},
    ),
    "steady": Preset(
        summary="The default: SPO with small negatives, averaged versions, the governor of drift under learner.optimizer.lr.",
        source="ours; SPO is from arXiv 2606.03070v3",
        settings={
            "objective": {"name": "spo", "spo_alpha": 0.1, "advantage": "std"},
            "publish": {"average": 0.9},
            "lr_control": {"mode": "drift"},
        },
    ),
    "grpo-verl": Preset(
        summary="GRPO with verl's defaults: dual clip, mean over the step's tokens, standard deviation of divisor G - 1.",
        source=_VERL,
        settings={"objective": {**_GRPO_OF_VERL, "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0}},
    ),
    "dapo": Preset(
        summary="DAPO's loss: GRPO with a higher upper clip. Its dynamic sampling is learner.refill, the default here too.",
        source="arXiv 2503.14476; verl: recipe/dapo/run_dapo_qwen2.5_32b.sh, which has clip_ratio_c = 10",
        settings={"objective": {**_GRPO_OF_VERL, "clip_low": 0.2, "clip_high": 0.28, "dual_clip": 10.0}},
    ),
    "dr-grpo": Preset(
        summary="Dr. GRPO as its authors run it: without a dual clip, divided by the longest response that is generated.",
        source="arXiv 2503.20783; github.com/sail-sg/understand-r1-zero, whose loss is that of github.com/sail-sg/oat",
        settings={
            "objective": {"name": "dr_grpo", "advantage": "mean", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": "off"}
        },
    ),
    "gspo": Preset(
        summary="GSPO: PPO's clip on the geometric mean of a response's token ratios.",
        source="arXiv 2507.18071",
        settings={"objective": {"name": "gspo", "advantage": "std", "clip_low": 3e-4, "clip_high": 4e-4}},
    ),
    "cispo": Preset(
        summary="CISPO: clipped ratios as weights, so that no token is left out; the upper bound is our choice.",
        source="arXiv 2506.13585, which has no lower clip and gives no upper one",
        settings={"objective": {"name": "cispo", "advantage": "std", "clip_low": 1.0, "clip_high": 4.0}},
    ),
    "dppo-prime-rl": Preset(
        summary="DPPO with prime-rl's defaults: total variation, its bounds, and a KL term to the behaviour policy.",
        source="arXiv 2602.04879; prime-rl: dppo_mask_low, dppo_mask_high, kl_tau of its default loss",
        settings={
            "objective": {
                "name": "dppo",
                "advantage": "mean",
                "mean": "batch",
                "dppo_divergence": "tv",
                "dppo_low": 0.2,
                "dppo_high": 0.2,
                "dppo_kl": 1e-3,
            }
        },
    ),
    "m2po": Preset(
        summary="M2PO as its paper has it: the second moment is bounded over the batch.",
        source="arXiv 2510.01161",
        settings={
            "objective": {
                "name": "m2po",
                "advantage": "std",
                "mean": "group",
                "m2po_threshold": 0.04,
                "m2po_over": "batch",
            }
        },
    ),
    "topr": Preset(
        summary="TOPR: positives in full, negatives weighted by the response's ratio, at most 1.",
        source="arXiv 2503.14286",
        settings={"objective": {"name": "topr", "advantage": "mean"}},
    ),
    "reinforce": Preset(
        summary="REINFORCE on centred rewards without any correction, the baseline to compare with.",
        source='arXiv 2606.03070v3, which calls it "naive"',
        settings={"objective": {"name": "reinforce", "advantage": "mean"}},
    ),
}


def fill_objective(values: Any) -> Any:
    """Puts a preset's constants under what a file sets in [learner.objective].

    Args:
        values: that section before it is checked; anything but a mapping, or one that names an objective and no preset, is
            returned as it is.

    Raises:
        ValueError: there is no such preset, or the section names another objective than the preset.
    """
    chosen = _chosen(values) if isinstance(values, Mapping) else None
    if not isinstance(chosen, str) or chosen == "off":
        return values
    if chosen not in PRESETS:
        raise ValueError(f"preset = {chosen!r}: no such preset; known: {', '.join(PRESETS)}")
    preset = PRESETS[chosen]
    if (name := values.get("name", preset.objective)) != preset.objective:
        raise ValueError(
            f"name = {name!r} and preset = {chosen!r}, whose objective is {preset.objective!r}: set name or preset, not both "
            '(preset = "off" chooses none)'
        )
    return _merged(values, {"preset": chosen, **preset.settings["objective"]})


def fill_learner(values: Any) -> Any:
    """Puts the preset that [learner.objective] names under what a file sets in the other tables of [learner].

    Args:
        values: the section [learner], or a learner's own file, before it is checked. Where it names an objective and no
            preset, or a preset that there is not, it is returned as it is: [learner.objective] is checked by itself.
    """
    if not isinstance(values, Mapping):
        return values
    objective = values.get("objective", {})
    chosen = _chosen(objective) if isinstance(objective, Mapping) else getattr(objective, "preset", None)
    preset = PRESETS.get(chosen) if isinstance(chosen, str) else None
    if preset is None:
        return values
    return _merged(values, {name: table for name, table in preset.settings.items() if name != "objective"})


def _chosen(objective: Mapping[str, Any]) -> Any:
    """What [learner.objective] sets as its preset, or the default one where it names neither a preset nor an objective."""
    return objective.get("preset", None if "name" in objective else DEFAULT_PRESET)


def _merged(given: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """``given``, and what only ``below`` has; tables that both have are merged likewise."""
    merged = {**below, **given}
    for name, table in below.items():
        if isinstance(table, Mapping) and name in given:
            own = given[name]
            if isinstance(own, BaseModel):
                own = {field: getattr(own, field) for field in own.model_fields_set}
            merged[name] = _merged(own, table) if isinstance(own, Mapping) else own
    return merged


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
