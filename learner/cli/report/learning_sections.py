"""The report's sections on what was learned from: rewards, groups, lengths, staleness, and the optimizer's own numbers."""

from __future__ import annotations

from collections.abc import Sequence

from learner.cli.report.charts import drift, groups, lengths, optimization, reward
from learner.cli.report.charts import staleness as ages
from learner.cli.report.charts.series import field, names_in
from learner.cli.report.page import Chart, charts, section
from learner.cli.run.run_history import LearnerHistory, Row
from learner.config.control import LrControlConfig


def reward_section(rows: Sequence[Row]) -> str:
    """The sampled reward, by task and by part where steps have them."""
    if not rows:
        return ""
    found = [Chart("Reward", "Mean over the responses of each step, and smoothed.", reward.reward(rows))]
    tasks = names_in(rows, "tasks")
    shown = tasks[: reward.MOST]
    hidden = f" {len(tasks) - len(shown)} more tasks are not shown." if len(tasks) > len(shown) else ""
    if len(tasks) > 1:
        found.append(Chart("Reward by task", f"Mean over 10 steps.{hidden}", reward.by_task(rows)))
    for task in shown:
        if names_in(rows, "tasks", task, "parts"):
            title = f"Parts of the reward of {task}" if len(tasks) > 1 else "Parts of the reward"
            found.append(
                Chart(title, "Mean of each named part over 10 steps, before its weight.", reward.parts(rows, task))
            )
    note = "Of sampled responses to ever new prompts: it says how training goes; what was learned, evaluations say."
    return section("Reward by task and parts", charts(found), note=note)


def group_section(rows: Sequence[Row]) -> str:
    """What groups had to teach."""
    found = []
    if _any(rows, "all_right"):
        note = (
            "Only a group whose responses differ in reward teaches anything; all right: too easy, all wrong: too hard."
        )
        found.append(Chart("Shares of groups", note, groups.shares(rows)))
    if _any(rows, "groups_informative"):
        found.append(Chart("Informative groups", "In each step, and smoothed.", groups.informative(rows)))
    if len(names_in(rows, "tasks")) > 1:
        found.append(Chart("Informative groups by task", "Mean over 10 steps.", groups.informative_by_task(rows)))
    return section("Groups", charts(found))


def length_section(rows: Sequence[Row]) -> str:
    """How long responses are, and how many were cut off."""
    found = []
    if _any(rows, "length", "mean"):
        found.append(Chart("Response length", "Generated tokens of a response.", lengths.lengths(rows)))
    if _any(rows, "length_positive", "mean") or _any(rows, "length_negative", "mean"):
        note = "Lengths that part by sign show what is being reinforced: brevity, or length."
        found.append(Chart("Length by sign of the advantage", note, lengths.by_sign(rows)))
    if _any(rows, "truncated"):
        found.append(Chart("Truncated", "Share of responses that the length limit cut off.", lengths.truncated(rows)))
    if names_in(rows, "length_by_finish"):
        found.append(Chart("Length by finish reason", "Mean of the responses of each.", lengths.by_finish(rows)))
    return section("Response lengths", charts(found))


def staleness_section(rows: Sequence[Row]) -> str:
    """How old tokens were when they were trained on."""
    if not rows:
        return ""
    found = [
        Chart("Staleness", "Age of the tokens when they were trained on, in steps.", ages.staleness(rows)),
        Chart("Staleness by step", "Mean over the tokens of each step, and the oldest.", ages.over_steps(rows)),
    ]
    return section("Staleness", charts(found))


def optimizer_section(learner: LearnerHistory, control: LrControlConfig) -> str:
    """What the optimizer's own numbers say."""
    rows = list(learner.steps.values())
    warm = []
    if learner.warmup:
        note = "Mean probability of a whole reference response, before the first version."
        warm.append(Chart("Warm start", note, optimization.warm_start(learner.warmup)))
    if not rows:
        return section("Optimizer", charts(warm))
    nll = "Mean negative log-likelihood of responses, by the sign of their advantage."
    rho = "Weight of negatives over positives in each step's gradient, and its mean over 10 steps; safe below 0.2."
    found = [
        Chart("NLL scales", nll, optimization.scales(rows)),
        Chart("rho", rho, optimization.rho(rows)),
        Chart("Health", "A collapse shows first in the share of informative groups.", optimization.health(rows)),
        *_rate_charts(rows, control),
    ]
    if _any(rows, "growth"):
        note = "How far a step moves the weights, and whether in the direction of the step before."
        found.append(Chart("Updates", note, optimization.updates(rows)))
    if _any(rows, "ess_share"):
        note = "Where it is small, a few responses carry a step of lagged data."
        found.append(Chart("Effective sample size", note, drift.effective_sample(rows)))
    if _any(rows, "gradient_cosine"):
        note = "Between the gradients of consecutive steps: where it stays high, steps go on in one direction."
        found.append(Chart("Gradient cosine", note, drift.gradient_cosine(rows)))
    return section("Optimizer", charts(found + warm))


def _rate_charts(rows: Sequence[Row], control: LrControlConfig) -> list[Chart]:
    """The learning rate, its ceiling where it has one, and the movement of the policy that bounds it where it is measured."""
    if not _any(rows, "lr_ceiling_share"):
        return [
            Chart(
                "Learning rate", "What the schedule, holds and rollbacks left of it.", optimization.learning_rate(rows)
            )
        ]
    note = "On a logarithmic scale. The ceiling is what the schedule gives; the rate used is what learner.lr_control leaves."
    found = [Chart("Learning rate and its ceiling", note, drift.rate_and_ceiling(rows))]
    if _any(rows, "drift_predicted"):
        note = "How far log p of a sampled token moves; the governor keeps the prediction at or below the target."
        target = control.drift_target if control.mode == "drift" else None
        found.append(Chart("Drift", note, drift.movement(rows, control.drift_every, target)))
    return found


def _any(rows: Sequence[Row], *keys: str) -> bool:
    return any(field(row, *keys) is not None for row in rows)
