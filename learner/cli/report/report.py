"""`leeway report`: writes one self-contained HTML page about a run."""

from __future__ import annotations

import html
import string
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from matplotlib.axes import Axes

from learner.cli.report import charts
from learner.cli.report.distributions import distributions
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import Row, RunHistory, mean, read_samples
from learner.cli.run.summary import Summary, objectives, read_summary, rho_exceeded, seconds_per_step, weighted
from learner.cli.view.closing_summary import first_and_last
from learner.cli.view.text import duration, number

_SAMPLES = 8
_LEDGER = ("received", "accepted", "duplicate", "rejected", "retried", "trained", "expired", "quarantined", "queued",
           "in_flight")  # fmt: skip
Chart = tuple[str, str, Callable[[Axes], None]]


def write_report(run: RunDirectory) -> Path:
    """Writes report.html from the files in the run's directory; returns its path. Needs no running process.

    Raises:
        SettingsError: run.json is damaged.
    """
    run_file = RunFile.read(run.root)
    history = RunHistory(run.metrics).poll()
    summary = read_summary(run) or {}
    first, last = first_and_last(read_samples(run.state), _SAMPLES)
    page = string.Template(resources.files("learner.cli.report").joinpath("report.html").read_text())
    name = html.escape(run_file.run.name)
    text = page.substitute(
        title=f"Leeway · {name}",
        name=name,
        lead=_lead(run_file, summary, list(history.learner.steps.values())),
        cards="".join(_cards(summary, history, run_file)),
        learning="".join(_figure(*chart) for chart in _learning(history)),
        flow="".join(_figure(*chart) for chart in _flow(history, run_file)),
        ledger=_ledger(summary.get("ledger") or []) + distributions(summary.get("ledger") or []),
        samples=_samples("Before", first) + _samples("After", last),
        settings=html.escape(run_file.model_dump_json(indent=2)),
    )
    temporary = run.report.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(run.report)
    return run.report


def _lead(run_file: RunFile, summary: Summary, rows: list[Row]) -> str:
    parallel = run_file.learner.parallel
    layout = [("TP", parallel.tensor), ("PP", parallel.pipeline)]
    layout += [(name, size) for name, size in (("CP", parallel.context), ("EP", parallel.expert)) if size > 1]
    facts = [
        f"task {run_file.rollout.task.name}",
        f"objective {objectives(rows, run_file.learner.objective)}",
        f"seed {run_file.run.seed}",
        f"{' × '.join(f'{name} {size}' for name, size in layout)}, {run_file.learner.world_size} processes",
        f"{run_file.learner.groups_per_step} prompts × {run_file.rollout.sampling.responses} responses a step",
        *([summary["status"]] if summary else ["in progress"]),
        *(f"alarm at step {row['step']}: {row['reason']}" for row in summary.get("alarms", [])),
        *(f"rolled back at step {row['step']} to {row['checkpoint']}" for row in summary.get("rollbacks", [])),
        time.strftime("%Y-%m-%d %H:%M"),
    ]
    return html.escape(" · ".join(facts))


def _cards(summary: Summary, history: RunHistory, run_file: RunFile) -> list[str]:
    rows = list(history.learner.steps.values())
    stalest = max((row["staleness_max"] for row in rows), default=None)
    exceeded = rho_exceeded(rows, run_file.learner.objective)
    values = [
        (
            f"{number(mean(rows[:10], 'reward'))} → {number(mean(rows[-20:], 'reward'))}",
            "reward, first 10 → last 20 steps",
        ),
        (f"{rows[-1]['step'] if rows else 0:,}", "optimizer steps"),
        (f"{number(seconds_per_step(rows))} s", "time per step, median"),
        (duration(summary["wall_s_total"]) if summary else "–", "wall time"),
        (number(weighted(rows, "staleness_mean", "tokens")), f"mean staleness, at most {number(stalest, 0)} steps"),
        (f"{len({row['version'] for row in history.learner.versions}):,}", "versions published"),
        (f"{history.tokens_generated():,}", "tokens generated"),
        (f"{sum(row['tokens'] for row in rows):,}", "response tokens trained"),
    ]
    if exceeded is not None:
        values.append((f"{exceeded:.1%}", "of the steps exceeded twice rho_max"))
    return [
        f"<div class=card><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>" for value, name in values
    ]


def _learning(history: RunHistory) -> list[Chart]:
    learner = history.learner
    figures = [
        ("Reward", "Mean over the responses of each step, and smoothed.", charts.reward(learner)),
        (
            "NLL scales",
            "Mean negative log-likelihood of responses, by the sign of their advantage.",
            charts.scales(learner),
        ),
        (
            "rho",
            "Weight of negatives over positives in each step's gradient, and its mean over 10 steps; safe below 0.2.",
            charts.rho(learner),
        ),
        ("Staleness", "Age of the tokens when they were trained on, in steps.", charts.staleness(learner)),
        ("Health", "A collapse shows first in the share of informative groups.", charts.health(learner)),
    ]
    if any(row.get("growth") is not None for row in learner.steps.values()):
        figures.append(
            (
                "Updates",
                "How far a step moves the weights, and whether in the direction of the step before.",
                charts.updates(learner),
            )
        )
    if learner.warmup:
        figures.append(
            (
                "Warm start",
                "Mean probability of a whole reference response, before the first version.",
                charts.warm_start(learner),
            )
        )
    return figures


def _flow(history: RunHistory, run_file: RunFile) -> list[Chart]:
    learner = history.learner
    times = [row["time"] for row in [*learner.warmup[:1], *learner.starts[:1], *learner.last(10**9)[:1]]]
    times += [worker.progress[0]["time"] for worker in history.workers.values() if worker.progress]
    start = min(times, default=0.0)
    capacity = (run_file.learner.max_staleness + 1) * run_file.learner.groups_per_step
    return [
        ("Throughput", "Response tokens, generated and trained.", charts.throughput(history, start)),
        ("Queue", "Accepted groups that wait for the learner.", charts.queue_depth(history, start, capacity)),
        ("Versions", "Published by the learner, loaded by the engines.", charts.versions(history, start)),
        ("Time per step", "What the learner spends it on.", charts.step_time(learner)),
    ]


def _figure(title: str, note: str, plot: Callable[[Axes], None]) -> str:
    return f"<figure><h3>{title}</h3><p class=note>{note}</p>{charts.draw(title, plot)}</figure>"


def _ledger(ledgers: Sequence[Row]) -> str:
    if not ledgers:
        return "<p>It could not be read when the run stopped; <code>leeway ledger</code> shows it.</p>"
    head = "".join(f"<th class=n>{name.replace('_', ' ')}</th>" for name in _LEDGER)
    body = []
    for ledger in ledgers:
        balances = _balances(ledger)
        cells = "".join(f"<td class=n>{ledger[name]:,}</td>" for name in _LEDGER)
        verdict = f"<td class={'good' if balances else 'bad'}>{'yes' if balances else 'no'}</td>"
        body.append(f"<tr><td>{html.escape(ledger['fleet'])}</td>{cells}{verdict}</tr>")
    return f"<table><tr><th>fleet</th>{head}<th>balances</th></tr>{''.join(body)}</table>"


def _balances(row: Row) -> bool:
    """Whether received and accepted are the sums of their terms, with nothing lost."""
    answered = row["accepted"] + row["duplicate"] + row["rejected"] + row["retried"]
    return row["received"] == answered and row["accepted"] == sum(row[name] for name in _LEDGER[5:])


def _samples(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    versions = sorted({row["version"] for row in rows})
    span = f"version {versions[0]}" if len(versions) == 1 else f"versions {versions[0]} to {versions[-1]}"
    body = "".join(
        f"<tr><td><code>{html.escape(row['prompt'])}</code></td><td><code>{html.escape(row['response'])}</code></td>"
        f"<td class='n {'good' if row['reward'] > 0 else 'bad'}'>{row['reward']:.2f}</td></tr>"
        for row in rows
    )
    head = "<tr><th>prompt</th><th>response</th><th class=n>reward</th></tr>"
    return f"<div class=panel><br><h3>{title}</h3><p class=note>{span}</p><table>{head}{body}</table></div>"
