"""The objectives that come with Leeway, and what each one needs and reads: one table, importable without torch.

ObjectiveConfig checks a configuration against it, learner.objectives.registry builds exactly these names, and `leeway doctor`
looks up what an objective needs. The formulas, and what in them is ours, are in docs/objectives.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectiveEntry:
    """What is known of an objective without building it.

    Attributes:
        summary: what it is, in one line.
        source: the paper it comes from (arXiv number), or its other origin.
        constants: the fields of ObjectiveConfig that this objective reads and most others do not.
        needs_behaviour: whether it needs log mu, the log-probability of each token under the version that generated it; the
            learner then recomputes it with that version's weights.
        needs_reference: whether its own formula needs log-probabilities under a frozen reference. No objective of ours does;
            ``kl_coef`` adds that need to any objective that accepts added terms.
        accepts_terms: whether ``advantage``, ``kl_coef`` and ``entropy_coef`` may be set. Not so for supervised training.
        fixed_mean: why ``mean`` cannot be set; empty: it can.
    """

    summary: str
    source: str
    constants: frozenset[str] = frozenset()
    needs_behaviour: bool = False
    needs_reference: bool = False
    accepts_terms: bool = True
    fixed_mean: str = ""


_ASYMPO_PAPER = "arXiv 2606.03070v3"
_CLIP = frozenset({"clip_low", "clip_high"})

OBJECTIVES: dict[str, ObjectiveEntry] = {
    "asympo": ObjectiveEntry(
        summary="Each response's negative log-likelihood divided by its own current value; rho_max bounds the negatives.",
        source=f"{_ASYMPO_PAPER}; rho_max is ours",
        constants=frozenset({"scale_floor", "p_low", "p_high", "rho_max", "rho_decay"}),
        fixed_mean="its unit is the response's own mean, S_g, and a response's length cancels out of A_g S_g / sg(S_g)",
    ),
    "spo": ObjectiveEntry(
        summary="Scaled Policy Optimization: responses below their group's mean weigh spo_alpha instead of 1.",
        source=_ASYMPO_PAPER,
        constants=frozenset({"spo_alpha"}),
    ),
    "reinforce": ObjectiveEntry(
        summary="REINFORCE on centred rewards, without any correction for staleness.",
        source=f'{_ASYMPO_PAPER}, which calls it "naive"',
    ),
    "positives": ObjectiveEntry(
        summary="REINFORCE on the responses better than their group's mean only.",
        source=f"{_ASYMPO_PAPER}: SPO with alpha = 0",
    ),
    "opmd": ObjectiveEntry(
        summary="Online policy mirror descent in its simple form: REINFORCE with a token mean, divided by 1 + opmd_tau.",
        source="Trinity-RFT, arXiv 2505.17826 and its code",
        constants=frozenset({"opmd_tau"}),
    ),
    "asymre": ObjectiveEntry(
        summary="Asymmetric REINFORCE: a baseline that lies asymre_shift below the group's mean reward.",
        source="arXiv 2506.20520",
        constants=frozenset({"asymre_shift"}),
        fixed_mean="its formula has the log-probability of the whole response, a sum over tokens",
    ),
    "grpo": ObjectiveEntry(
        summary="Group Relative Policy Optimization: PPO's clipped token ratio, advantages divided by the group's std.",
        source="arXiv 2402.03300; the dual clip is arXiv 1912.09729's",
        constants=_CLIP | {"dual_clip"},
        needs_behaviour=True,
    ),
    "dr_grpo": ObjectiveEntry(
        summary="Dr. GRPO: GRPO without the division by the response's length and by the group's standard deviation.",
        source="arXiv 2503.20783",
        constants=_CLIP | {"dual_clip", "dr_grpo_length"},
        needs_behaviour=True,
        fixed_mean="its point is that no length divides but the constant dr_grpo_length",
    ),
    "tis": ObjectiveEntry(
        summary="Truncated importance sampling: REINFORCE weighted by the token ratio, at most tis_cap, without gradient.",
        source="Yao et al., On the Rollout-Training Mismatch in Modern RL Systems (2025)",
        constants=frozenset({"tis_cap"}),
        needs_behaviour=True,
    ),
    "cispo": ObjectiveEntry(
        summary="CISPO: REINFORCE weighted by the clipped token ratio, without gradient; no token is left out.",
        source="MiniMax-M1, arXiv 2506.13585",
        constants=_CLIP,
        needs_behaviour=True,
    ),
    "gspo": ObjectiveEntry(
        summary="Group Sequence Policy Optimization: PPO's clip on the geometric mean of a response's token ratios.",
        source="arXiv 2507.18071",
        constants=_CLIP,
        needs_behaviour=True,
        fixed_mean="its ratio is the whole response's, so that a response has one term and no tokens to average over",
    ),
    "topr": ObjectiveEntry(
        summary="Tapered off-policy REINFORCE: negatives weighted by the whole response's ratio, at most 1.",
        source="arXiv 2503.14286",
        needs_behaviour=True,
        fixed_mean="its formula has the log-probability of the whole response, a sum over tokens",
    ),
    "dppo": ObjectiveEntry(
        summary="DPPO: tokens whose probability has moved too far from the behaviour policy's are masked.",
        source="arXiv 2602.04879 and its code; dppo_kl is prime-rl's",
        constants=frozenset({"dppo_divergence", "dppo_low", "dppo_high", "dppo_kl"}),
        needs_behaviour=True,
    ),
    "drpo": ObjectiveEntry(
        summary="DRPO: a quadratic penalty on the distance from the behaviour policy, in place of DPPO's mask.",
        source="arXiv 2606.09821 and its code",
        constants=frozenset({"drpo_delta"}),
        needs_behaviour=True,
    ),
    "m2po": ObjectiveEntry(
        summary="M2PO: the tokens farthest from the behaviour policy are masked until the second moment fits.",
        source="arXiv 2510.01161",
        constants=frozenset({"m2po_threshold", "m2po_over"}),
        needs_behaviour=True,
    ),
    "sft": ObjectiveEntry(
        summary="Supervised fine-tuning: negative log-likelihood of the responses, for warm starts.",
        source="maximum likelihood",
        accepts_terms=False,
        fixed_mean="it is the mean over the step's tokens",
    ),
}
