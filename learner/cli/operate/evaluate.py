"""`leeway eval`: measures a version of a run, or any Hugging Face directory, without a gateway, and prints the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from learner.cli.run.evaluations import Evaluation, read_evaluations
from learner.cli.run.failure_reason import failure_reason
from learner.cli.run.free_port import free_port
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from rollout.config import EvaluationSampling, EvaluatorConfig, TaskConfig
from runtime.settings import Settings
from runtime.version_format.names import versions_on_disk


@dataclass(frozen=True)
class EvaluationWish:
    """What `leeway eval` is asked to measure.

    Attributes:
        source: a run's directory, or a Hugging Face directory.
        version: a version of the run; None: its newest.
        tasks: names or labels of tasks; empty: what the run evaluates.
        samples: k, responses per prompt: 1 greedy, more at temperature 1; None: as the run's [eval], or 1.
        overrides: changes of the evaluator's settings, as ``key=value``.
    """

    source: Path
    version: int | None = None
    tasks: Sequence[str] = ()
    samples: int | None = None
    overrides: Sequence[str] = ()


def evaluate(wish: EvaluationWish, console: Console, out: Path | None = None) -> None:
    """Measures and prints a table.

    Args:
        wish: what is measured.
        console: where the table is printed.
        out: file to which the results are appended as JSON lines; None: they are only printed.

    Raises:
        RunError: there is nothing to measure there, or the evaluation failed; the message says why.
        SettingsError: a setting is not allowed.
    """
    with tempfile.TemporaryDirectory(prefix="leeway-eval-") as scratch:
        root = Path(scratch)
        config = evaluator_config(wish, root)
        for task in config.task:
            if config.version is not None and not task.held_out:
                console.print(
                    f"note: {task.label}: held_out is 0: it may ask prompts that were trained on", markup=False
                )
        config.write(root / "evaluator.json")
        _run(root)
        rows = config.results.read_bytes()
        found = read_evaluations(root)
    if out is not None:
        with out.open("ab") as file:
            file.write(rows)
    what = str(wish.source) if config.version is None else f"version {config.version} of {wish.source}"
    console.print(f"{what}, intervals of 95 % by bootstrap over prompts", markup=False, highlight=False)
    console.print(result_table(found))


def evaluator_config(wish: EvaluationWish, root: Path) -> EvaluatorConfig:
    """Returns the settings of the evaluator that does it.

    Args:
        wish: what is measured.
        root: directory for everything that the evaluator writes.

    Raises:
        RunError: the source is neither a run nor a model, or there is no version or task.
        SettingsError: a setting is not allowed.
    """
    is_run = (wish.source / "run.json").is_file()
    if not is_run and not (wish.source / "config.json").is_file():
        raise RunError(
            f"{wish.source}: neither a run's directory (run.json) nor a Hugging Face directory (config.json)"
        )
    values = _of_run(wish, root) if is_run else _of_model(wish)
    if wish.samples is not None:
        sampling = EvaluationSampling(samples=wish.samples, temperature=float(wish.samples > 1))
        values["sampling"] = [sampling.model_dump()]
    values |= {"state_dir": root / "state", "results": root / "evaluations.jsonl", "log_dir": root / "logs"}
    values["engine"] = {**values.get("engine", {}), "base_port": free_port()}
    plain = _Written.model_validate(values).model_dump(mode="json")
    path = root / "asked.json"
    path.write_text(json.dumps(plain))
    return EvaluatorConfig.load(path, wish.overrides)


class _Written(Settings, extra="allow"):
    """Values of any kind, to be written as JSON."""


def _of_model(wish: EvaluationWish) -> dict[str, Any]:
    if wish.version is not None:
        raise RunError(f"--version {wish.version}: {wish.source} is a Hugging Face directory, which has no versions")
    if not wish.tasks:
        raise RunError(
            f"{wish.source}: say what to ask it: --task NAME, such as --task gsm8k --set task.options.path=..."
        )
    return {"model": wish.source.absolute(), "task": [TaskConfig(name=name) for name in wish.tasks]}


def _of_run(wish: EvaluationWish, root: Path) -> dict[str, Any]:
    run = RunDirectory.existing(wish.source)
    run_file = RunFile.read(run.root)
    plan = run_file.resolve("redis://unknown", "eval", 1)
    present = versions_on_disk(run.weights)
    version = wish.version if wish.version is not None else max(present, default=None)
    if version not in present:
        raise RunError(
            f"{wish.source}: version {version}: not on disk; there: {', '.join(map(str, present)) or 'none'}"
        )
    known = {} if plan.evaluator is None else {task.label: task for task in plan.evaluator.task}
    known |= {task.label: task for task in run_file.rollout.task if task.label not in known}
    tasks = [known[name] if name in known else TaskConfig(name=name) for name in wish.tasks]
    if not tasks and plan.evaluator is None:
        tasks = [task for task in known.values() if task.held_out]
        if not tasks:
            raise RunError(
                f"{wish.source}: the run has no [eval] and no held-out prompts: say what to ask it: --task NAME"
            )
    base = (
        {} if plan.evaluator is None else plan.evaluator.model_dump(exclude={"gateway", "token_file", "tls", "status"})
    )
    engine = {} if plan.evaluator is None else plan.evaluator.engine.model_dump()
    if plan.evaluator is None:
        engine = run_file.rollout.engine.model_dump() | {"count": 1, "urls": [], "router": None}
    return {
        "max_new_tokens": run_file.rollout.sampling.max_new_tokens,
        "seed": run_file.run.seed,
        **base,
        "engine": engine,
        "model": run_file.model_directory(),
        "task": tasks or base["task"],
        "version": version,
        "allowed_uris": [run.weights.absolute().as_uri()],
        "cache_dir": root / "versions",
    }


def _run(root: Path) -> None:
    """Runs the evaluator. Raises RunError with its own words if it fails."""
    log = root / "evaluator.log"
    command = [sys.executable, "-m", "rollout", "evaluate", str(root / "evaluator.json"), "--once"]
    with log.open("wb") as file:
        status = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "LEEWAY_CHILD": "1"}, check=False
        ).returncode
    if status:
        raise RunError(
            f"the evaluation failed (exit status {status}): {failure_reason(log.read_text(errors='replace'))}"
        )
    if not (root / "evaluations.jsonl").is_file():
        raise RunError("the evaluation was stopped")


def result_table(evaluations: Sequence[Evaluation]) -> Table:
    """Returns a table of evaluations: a row for each metric, a column for each task and sampling."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("metric")
    for one in evaluations:
        table.add_column(f"{one.name} {one.sampling} ({one.prompts} x {one.samples})", justify="right")
    names = list(dict.fromkeys(name for one in evaluations for name in one.metrics))
    for name in names:
        cells = [one.metrics.get(name) for one in evaluations]
        table.add_row(
            name, *("" if cell is None else f"{cell.value:.4g} [{cell.low:.4g}, {cell.high:.4g}]" for cell in cells)
        )
    table.add_row("unscored", *(f"{one.unscored:,}" for one in evaluations))
    return table
