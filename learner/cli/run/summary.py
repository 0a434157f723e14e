"""summary.json: a run in numbers, computed from what its processes recorded."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from learner.cli.run.evaluations import Evaluation, changes, read_evaluations
from learner.cli.run.governed import governed
from learner.cli.run.outcome import Outcome
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import LearnerHistory, Row, RunHistory, mean, stretches
from learner.cli.run.warnings import Evidence, truncated_share, warnings
from learner.cli.run.worth import worth
from learner.config.objective import ObjectiveConfig
from learner.queue import imbalances
from leeway.v1 import rollout_pb2

Summary = dict[str, Any]


def summarize(run_file: RunFile, history: RunHistory, outcome: Outcome, previous: Summary | None = None) -> Summary:
    """Computes the summary of a run, without side effects.

    ``wall_s``, ``phases`` and ``restarts`` cover this invocation of `leeway up`; ``wall_s_total`` adds earlier ones;
    everything else covers the whole run, on its surviving timeline. Rewards are None before the first step,
    ``tokens_generated`` where no worker of this machine took part, ``truncated`` where no step counted it.

    Args:
        run_file: the run.
        history: everything that its processes recorded.
        outcome: how this invocation ended.
        previous: the summary of the invocation before; None when there was none.
    """
    learner = history.learner
    rows = list(learner.steps.values())
    wall = outcome.ended - outcome.started
    evaluations = read_evaluations(run_file.directory.metrics)
    return {
        "name": run_file.run.name,
        "status": "failed" if outcome.failure else "stopped" if outcome.signal else "finished",
        "failure": outcome.failure,
        "warnings": warnings(_evidence(run_file, learner, outcome, evaluations)),
        "evaluations": [change.row() for change in changes(evaluations)],
        "worth": worth(run_file.directory.weights, evaluations, run_file.best_metric),
        "objective": objectives(rows, run_file.learner.objective),
        "task": " + ".join(task.label for task in run_file.rollout.task),
        "seed": run_file.run.seed,
        "steps": rows[-1]["step"] if rows else 0,
        "wall_s": round(wall, 2),
        "wall_s_total": round(wall + (previous or {}).get("wall_s_total", 0.0), 2),
        "phases": phases(learner, outcome),
        "seconds_per_step": _rounded(seconds_per_step(rows)),
        "wait_share": _rounded(_share(learner.steady(), "wait_s")),
        "train_share": _rounded(_share(learner.steady(), "train_s")),
        "reward_first10": _rounded(mean(rows[:10], "reward")),
        "reward_last20": _rounded(mean(rows[-20:], "reward")),
        "governed": governed(rows),
        "rho_exceeded": _rounded(rho_exceeded(rows, run_file.learner.objective)),
        "staleness_mean": _rounded(weighted(rows, "staleness_mean", "tokens")),
        "staleness_max": max((row["staleness_max"] for row in rows), default=None),
        "truncated": _rounded(truncated_share(rows)),
        "tokens_generated": history.tokens_generated() if history.workers else None,
        "tokens_trained": sum(row["tokens"] for row in rows),
        "groups_trained": sum(row["groups"] for row in rows),
        "groups_late": sum(row["late"] for row in rows),
        "groups_expired": rows[-1].get("expired", 0) if rows else 0,
        "average": run_file.learner.publish.average,
        "versions_published": len({row["version"] for row in learner.versions}),
        "steps_skipped": learner.skipped,
        "alarms": [{key: row[key] for key in ("step", "rule", "action", "reason")} for row in learner.alarms],
        "rollbacks": [{key: row[key] for key in ("step", "rule", "checkpoint", "lost")} for row in learner.rollbacks],
        "learner_starts": len(learner.starts),
        "restarts": outcome.restarts,
        "ledger_balanced": balanced(outcome.ledgers),
        "ledger": [ledger_row(ledger) for ledger in outcome.ledgers or []],
    }


def phases(learner: LearnerHistory, outcome: Outcome) -> dict[str, float]:
    """Splits this invocation's wall time into phases, in seconds.

    "start" ends with the first warm-up measurement, "warmup" when the learner is ready for groups, "first_groups" (engines
    start) with the first step, "train" with the last step, "stop" when every process has ended.
    """
    since = outcome.started
    warm = [row["time"] for row in learner.warmup if row["time"] >= since]
    ready = [row["time"] for row in learner.starts if row["time"] >= since]
    trained = [row["time"] for row in learner.steps.values() if row["time"] >= since]
    marks = [outcome.started]
    marks.append(min([*warm[:1], *ready[:1], outcome.stopping]))
    marks.append(max(marks[-1], min([*ready[:1], outcome.stopping])))
    marks.append(max(marks[-1], min([*trained[:1], outcome.stopping])))
    marks.append(max(marks[-1], *trained[-1:]) if trained else outcome.stopping)
    marks.append(outcome.ended)
    names = ("start", "warmup", "first_groups", "train", "stop")
    return {name: round(marks[index + 1] - marks[index], 2) for index, name in enumerate(names)}


def seconds_per_step(rows: Sequence[Row]) -> float | None:
    """Median wall time of a step in seconds, waiting included; None without steps."""
    return statistics.median(row["step_s"] for row in rows) if rows else None


def rho_exceeded(rows: Sequence[Row], objective: ObjectiveConfig) -> float | None:
    """Share of the steps whose rho was above twice objective.rho_max; None without such a bound, or without such steps.

    Steps that were trained with another objective do not count.
    """
    own = [row for row in rows if row.get("objective", objective.name) == objective.name]
    measured = [row["rho"] for row in own if row.get("rho") is not None]
    if objective.name != "asympo" or objective.rho_max is None or not measured:
        return None
    return sum(rho > 2 * objective.rho_max for rho in measured) / len(measured)


def objectives(rows: list[Row], configured: ObjectiveConfig) -> str:
    """Names the objective that the steps were trained with; where a resume changed it, each with its steps.

    Args:
        rows: step rows in ascending order.
        configured: the settings' objective, which is right only for a run without a step.
    """
    found = stretches(rows, "objective")
    if len(found) == 1:
        return found[0].value
    return ", ".join(f"{part.value} (steps {part.first} to {part.last})" for part in found) or configured.name


def weighted(rows: Sequence[Row], key: str, weight: str) -> float | None:
    """Mean of ``key`` over the rows, weighted by ``weight``; None when the weights add up to 0."""
    total = sum(row[weight] for row in rows)
    return sum(row[key] * row[weight] for row in rows) / total if total else None


def balanced(ledgers: Sequence[rollout_pb2.Ledger] | None) -> bool | None:
    """Whether every fleet's ledger balances; None when the ledgers could not be read."""
    return None if ledgers is None else not any(imbalances(ledger) for ledger in ledgers)


def ledger_row(ledger: rollout_pb2.Ledger) -> Row:
    """A fleet's ledger as plain values for JSON, zeros included."""
    row = {field.name: getattr(ledger, field.name) for field in ledger.DESCRIPTOR.fields}
    for reasons in ("rejected_by_reason", "retried_by_reason", "unscored_responses_by_reason"):
        row[reasons] = dict(getattr(ledger, reasons))
    row["histogram"] = [
        {
            "measure": rollout_pb2.Measure.Name(bucket.measure).removeprefix("MEASURE_").lower(),
            "outcome": bucket.outcome,
            "lower": bucket.lower,
            "upper": bucket.upper,
            "count": bucket.count,
        }
        for bucket in ledger.histogram
    ]
    return row


def read_summary(run: RunDirectory) -> Summary | None:
    """Reads summary.json; None when there is none."""
    return json.loads(run.summary.read_text()) if run.summary.is_file() else None


def write_summary(run: RunDirectory, summary: Summary) -> None:
    """Writes summary.json atomically."""
    temporary = run.summary.with_suffix(".tmp")
    temporary.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    temporary.replace(run.summary)


def _evidence(
    run_file: RunFile, learner: LearnerHistory, outcome: Outcome, evaluations: Sequence[Evaluation]
) -> Evidence:
    ended_well = not outcome.failure and not outcome.signal  # a run that was stopped awaits no evaluation
    awaits = ended_well and run_file.eval is not None and run_file.eval.final
    return Evidence(
        rows=list(learner.steps.values()),
        ledgers=outcome.ledgers or [],
        run=run_file.directory.root,
        evaluations=evaluations,
        evaluates=run_file.eval is not None,
        last_version=learner.versions[-1]["version"] if awaits and learner.versions else None,
    )


def _share(rows: Sequence[Row], key: str) -> float | None:
    total = sum(row["step_s"] for row in rows)
    return sum(row[key] for row in rows) / total if total else None


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None
