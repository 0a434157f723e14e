"""The text of docs/evidence.md: what was measured, who wins, who loses, and what was not run."""

from __future__ import annotations

from collections.abc import Sequence

from tests.evidence.cell import Cell
from tests.evidence.grid import CEILING, OBJECTIVES, TUNED, Part, cell, unique
from tests.evidence.law import law_curves, law_verdict, limits_table, rewards_table
from tests.evidence.results import Results
from tests.evidence.table import (
    Comparison,
    Setting,
    Variant,
    difference,
    differences,
    ends,
    heading,
    markdown,
    means,
    not_run,
    signed,
)

_MONITORS = ("nll_positive", "nll_negative", "rho", "entropy", "drift", "lr")

_INTRODUCTION = """# Evidence: objectives, staleness and the control of the learning rate

Made by `make evidence`, which also makes the figures and [results.json](../evidence/results.json): do not edit it.
`SHORT=1` takes minutes and runs a small part; `HOURS=n` stops after so many hours; `JOBS=2` is how many runs go at a
time. Known results are not run again.

Every run trains with the product's own learner: its Megatron trainer, objectives, averaged versions, governor and
probe, and log mu recomputed with the weights of published versions where an objective needs it. Generation is in
process, so that the age of every trained token is exact: a batch sampled after t steps is trained at step t + S.

- Model: the demo's architecture with 100,736 parameters, warm-started by the product's warm start until a reference
  response has a mean probability of 0.2. Tasks: `sort` (six digits), `add` (three digits each), `sumto`, with the
  product's own rewards. `sumto` has 45 prompts: all are trained on, and all are evaluated.
- A step: 16 prompts of 8 responses at temperature 1, without refill; AdamW, clip 1, betas 0.9 and 0.999, constant
  rate. 200 steps.
- *plain*: the rate as given, the weights themselves are published. *averaged*: an average of the weights with decay
  0.9 is published. *governed*: `lr_control.mode = "drift"`, the rate given is a ceiling. *both*: both.
- Advantages are divided by the group's standard deviation for every objective, unless a row says otherwise. `asympo`
  has the guard (`rho_max = 0.1`), `asympo-paper` has not; `spo` has `spo_alpha = 0.1`; `grpo` has the dual clip at 3.
- A number is the mean sampled reward of the last 20 steps, averaged over seeds, with the 95% bootstrap interval over
  seeds. With five seeds such an interval is somewhat too narrow. Differences are paired by seed: both runs begin with
  the same policy.
- *better* and *worse* stand where the interval excludes 0 and there are three seeds or more. No correction for many
  comparisons.
"""


def page(parts: Sequence[Part], results: Results) -> str:
    """Makes the page of all parts of which something was run."""
    sections = [_INTRODUCTION]
    for part in parts:
        if any(one in results for one in part.cells):
            sections.append(f"## {part.title}\n\n{_section(part, results)}")
    sections.append(f"## What was not run\n\n{not_run(parts, results)}")
    sections.append(_cost(parts, results))
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _cost(parts: Sequence[Part], results: Results) -> str:
    known = {one.key: found.numbers["cpu_s"] for one in unique(parts) if (found := results.get(one)) is not None}
    spent = sum(known.values())
    return f"{len(known)} runs, {spent / max(1, len(known)):.0f} s of CPU each on average, {spent / 3600:.1f} h in all."


def _section(part: Part, results: Results) -> str:
    if part.name == "law":
        return _law_section(part, results)
    comparison = Comparison(part.cells, results)
    return _core_section(part, comparison) if part.name == "core" else means(comparison)


def _law_section(part: Part, results: Results) -> str:
    curves = law_curves(part.cells, results)
    if not curves:
        return law_verdict(curves)
    return "\n\n".join(
        [
            "The largest stable rate is the one up to which the final reward is at least 0.9 of the best at that "
            "staleness. If it fell as 1/S, the power of S would be -1 and R equal at every S. *beyond*: no rate that "
            "was tried is too large.",
            law_verdict(curves),
            "![Final reward by learning rate](../evidence/law.svg)",
            limits_table(curves),
            rewards_table(curves),
        ]
    )


def _core_section(part: Part, comparison: Comparison) -> str:
    base, steps = baseline(part.cells), part.cells[0].steps
    return "\n\n".join(
        [
            "![Final reward by staleness](../evidence/staleness.svg)",
            means(comparison),
            "What the control changes: each objective averaged and governed under the higher rate, minus itself at a "
            "constant rate.",
            gains(comparison, steps),
            f"Differences from the default as it was, {base.name}:",
            differences(comparison, base),
            verdicts(comparison, base),
            claim(comparison, steps),
            "The same runs, greedy on 256 prompts that are not trained on, then four samples of each:",
            means(comparison, "greedy"),
            means(comparison, "sampled"),
            "Mean reward over the whole run:",
            means(comparison, "area"),
            f"At the end of the runs at {heading(('sort', 16))} (NLL and entropy in nats a token, drift over four steps):",
            ends(comparison, _MONITORS, [("sort", 16)]),
        ]
    )


def baseline(cells: Sequence[Cell]) -> Variant:
    """What others are compared with: ASymPO with the guard, the default, at the tuned rate."""
    return Variant.of(cell("asympo", "plain", TUNED, "sort", 0, 0, steps=cells[0].steps))


def gains(comparison: Comparison, steps: int) -> str:
    """Table of what averaging and the governor change for each objective."""
    rows = {}
    for name in OBJECTIVES:
        both, *plain = (
            Variant.of(cell(name, arm, lr, "sort", 0, 0, steps=steps))
            for arm, lr in (("both", CEILING), ("plain", TUNED), ("plain", CEILING))
        )
        if both not in comparison.variants:
            continue
        for lr, constant in zip((TUNED, CEILING), plain, strict=True):
            found = [difference(comparison, both, constant, setting) for setting in comparison.settings]
            rows[f"{name}, minus constant {lr:g}"] = list(map(signed, found))
    return markdown(["", *map(heading, comparison.settings)], rows)


def verdicts(comparison: Comparison, base: Variant) -> str:
    """Names who is better and who is worse than ``base`` in any setting."""
    lines = []
    for sign, words in ((1, "Better"), (-1, "Worse")):
        named = []
        for variant in comparison.variants:
            found = [(setting, difference(comparison, variant, base, setting)) for setting in comparison.settings]
            where = [heading(setting) for setting, one in found if one is not None and one.sign == sign]
            if where and variant != base:
                named.append(f"{variant.name} ({', '.join(where)})")
        lines.append(f"- {words} than {base.name}: {'; '.join(named) or 'none'}.")
    return "\n".join(lines)


def claim(comparison: Comparison, steps: int) -> str:
    """The claim of the ASymPO paper against the numbers."""
    chosen = {
        (name, lr): Variant.of(cell(name, "plain", lr, "sort", 0, 0, steps=steps))
        for name in ("asympo-paper", "grpo", "reinforce")
        for lr in (TUNED, CEILING)
    }
    lines = [
        '"As good as behaviour-corrected GRPO, without behaviour probabilities, where naive collapses" (2606.03070):'
    ]
    for lr in (TUNED, CEILING):
        settings = comparison.settings
        against = {at: difference(comparison, chosen["asympo-paper", lr], chosen["grpo", lr], at) for at in settings}
        known = {setting: found for setting, found in against.items() if found is not None}
        if not known:
            continue
        told = "; ".join(f"{heading(setting)} {found.mean:+.2f}" for setting, found in known.items())
        signs = [found.sign for found in known.values()]
        lines.append(
            f"- At {lr:g}, ASymPO as published minus GRPO: {told}. Better in {signs.count(1)}, worse in {signs.count(-1)}, "
            f"undecided in {signs.count(0)} of {len(signs)} settings."
        )
        fallen = [heading(setting) for setting in known if _collapsed(comparison, chosen["reinforce", lr], setting)]
        lines.append(f"- REINFORCE at {lr:g} ends below where it began: {', '.join(fallen) or 'nowhere'}.")
    return "\n".join(lines)


def _collapsed(comparison: Comparison, variant: Variant, setting: Setting) -> bool:
    final, first = (list(comparison.values(variant, setting, name).values()) for name in ("final", "first"))
    return bool(final) and sum(final) < sum(first)
