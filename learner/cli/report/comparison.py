"""Several runs side by side: the settings in which they differ, their numbers, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.cli.run.evaluations import Evaluation, by_subject, read_evaluations
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_history import Row, RunHistory, mean
from learner.cli.run.summary import Summary, read_summary, seconds_per_step, weighted
from learner.cli.run.warnings import truncated_share
from learner.cli.view.text import number

_OWN = ("run.name", "run.dir")  # settings that every run has of its own: they explain nothing
ABSENT = "–"


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        label: what it is called here: its directory's name, or the directory as it was given where two have one name.
        run: its directory.
        settings: its run.json, by key such as learner.optimizer.lr.
        history: its metrics.
        evaluations: its evaluations, by version.
    """

    label: str
    run: RunDirectory
    settings: dict[str, Any]
    history: RunHistory
    evaluations: list[Evaluation]

    @property
    def rows(self) -> list[Row]:
        """Its step rows, ascending."""
        return list(self.history.learner.steps.values())


def read_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Reads the runs. Raises RunError: fewer than two, one twice, one that is none, or a damaged run.json; OSError."""
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise RunError(f"{' '.join(map(str, paths))}: name two different runs or more")
    names = [path.resolve().name for path in paths]
    return [_read(path, name if names.count(name) == 1 else str(path)) for path, name in zip(paths, names, strict=True)]


def numbers(compared: ComparedRun) -> Row:
    """What is compared, as plain values for JSON; None where it is not known.

    Shares are between 0 and 1; ``tokens_generated`` are those of workers beside the learner, as `leeway up` starts them.
    """
    rows, history = compared.rows, compared.history
    seconds = sum(row["step_s"] for row in history.learner.steady())
    summary = read_summary(compared.run) or {}
    return {
        "label": compared.label,
        "directory": str(compared.run.root),
        "status": summary.get("status", "in progress" if compared.run.is_locked() else "not finished"),
        "steps": rows[-1]["step"] if rows else 0,
        "reward_first10": mean(rows[:10], "reward"),
        "reward_last20": mean(rows[-20:], "reward"),
        "evaluations": [_last(found) for found in by_subject(compared.evaluations).values()],
        "tokens_per_s_generated": history.generation_rate(float("inf")) or None,
        "tokens_per_s_trained": sum(row["tokens"] for row in history.learner.steady()) / seconds if seconds else None,
        "seconds_per_step": seconds_per_step(rows),
        "staleness_mean": weighted(rows, "staleness_mean", "tokens"),
        "staleness_max": max((row["staleness_max"] for row in rows), default=None),
        "truncated": truncated_share(rows),
        "expired": _expired(rows, summary),
        "tokens_generated": history.tokens_generated() if history.workers else None,
        "tokens_trained": sum(row["tokens"] for row in rows),
    }


def differing(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Settings that are not equal in all runs, by key: each run's value as JSON text, – where it has none."""
    keys = dict.fromkeys(key for one in runs for key in one.settings if key not in _OWN)
    values = {key: [_shown(one.settings, key) for one in runs] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def table_rows(found: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The numbers of several runs as lines of text: what it is, and each run's value."""
    lines = [
        ("status", [row["status"] for row in found]),
        ("steps", [f"{row['steps']:,}" for row in found]),
        ("sampled reward, first 10", [number(row["reward_first10"], 3) for row in found]),
        ("sampled reward, last 20", [number(row["reward_last20"], 3) for row in found]),
    ]
    subjects = dict.fromkeys(
        (one["name"], one["sampling"], one["metric"]) for row in found for one in row["evaluations"]
    )
    for subject in subjects:
        name, sampling, metric = subject
        lines.append((f"{metric} on {name}, {sampling}", [_evaluated(row, subject) for row in found]))
    lines += [
        ("tokens/s generated", [number(row["tokens_per_s_generated"], 0) for row in found]),
        ("tokens/s trained", [number(row["tokens_per_s_trained"], 0) for row in found]),
        ("seconds per step", [number(row["seconds_per_step"]) for row in found]),
        (
            "staleness, mean and max",
            [f"{number(row['staleness_mean'])}, {number(row['staleness_max'], 0)}" for row in found],
        ),
        ("truncated responses", [_percent(row["truncated"]) for row in found]),
        ("expired groups", [_percent(row["expired"]) for row in found]),
        ("tokens generated, the cost", [number(row["tokens_generated"], 0) for row in found]),
        ("response tokens trained", [number(row["tokens_trained"], 0) for row in found]),
    ]
    return lines


def _read(path: Path, label: str) -> ComparedRun:
    run = RunDirectory.existing(path)
    try:
        settings = json.loads(run.settings.read_text())
    except ValueError as error:
        raise RunError(f"{run.settings}: damaged ({error})") from error
    history = RunHistory(run.metrics).poll()
    return ComparedRun(label, run, dict(_flat(settings, "")), history, read_evaluations(run.metrics))


def _flat(value: Any, key: str) -> list[tuple[str, Any]]:
    """Leaves of nested tables, by their keys joined with dots; lists of tables count their entries."""
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        value = {str(index): one for index, one in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return [(key, value)]
    return [leaf for name, one in value.items() for leaf in _flat(one, f"{key}.{name}" if key else name)]


def _shown(settings: dict[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else ABSENT


def _last(rows: Sequence[Evaluation]) -> Row:
    last = rows[-1]
    metric = last.headline
    values = vars(last.metrics[metric]) if metric is not None else {"value": None, "low": None, "high": None}
    subject = {"name": last.name, "sampling": last.sampling, "metric": metric, "version": last.version}
    return {**subject, "prompts": last.prompts, "samples": last.samples, **values}


def _evaluated(row: Row, subject: tuple[str, str, str]) -> str:
    for one in row["evaluations"]:
        if (one["name"], one["sampling"], one["metric"]) == subject and one["value"] is not None:
            low, high = number(one["low"], 3), number(one["high"], 3)
            return f"{number(one['value'], 3)} [{low}, {high}] v{one['version']}"
    return ABSENT


def _expired(rows: Sequence[Row], summary: Summary) -> float | None:
    """Share of the groups that expired: of the accepted ones, by the ledger of a run that has ended, else by the steps."""
    ledgers = summary.get("ledger") or []
    expired = sum(ledger["expired"] for ledger in ledgers)
    groups = sum(ledger["accepted"] for ledger in ledgers)
    if not ledgers and rows:
        expired = rows[-1].get("expired", 0)
        groups = sum(row["groups"] for row in rows) + expired
    return expired / groups if groups else None


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{share:.1%}"
