"""Makes run directories as their processes would leave them, with numbers small enough to check by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from learner.cli.run.run_file import RunFile
from runtime.rollout_record import RecordedGroup, RecordedTurn
from tests.tools import recorded

REPOSITORY = Path(__file__).parents[2]
DEMO = REPOSITORY / "configs" / "demo.toml"


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def step(number: int, **values: Any) -> dict[str, Any]:
    """Makes a step row; step n ends at time 1000 + n."""
    row: dict[str, Any] = {
        "kind": "step", "time": 1000.0 + number, "step": number, "version": number, "reward": 0.5, "epoch": 1,
        "staleness_mean": 1.0, "staleness_max": 1, "groups": 2, "late": 1, "responses": 4, "informative": 0.5, "tokens": 10,
        "trained_tokens": 20, "nll_positive": 0.5, "nll_negative": 1.5, "entropy": 0.7, "grad_norm": 1.0, "lr": 1e-4,
        "loss": 0.0, "queue_depth": 3, "expired": 0, "wait_s": 0.2, "prepare_s": 0.1, "train_s": 0.7, "publish_s": 0.1,
        "step_s": 1.0,
    }  # fmt: skip
    return {**row, **values}


def progress(time: float, tokens: int, rate: float = 5.0) -> dict[str, Any]:
    return {"kind": "progress", "time": time, "tokens_generated": tokens, "tokens_per_s": rate}


def sample(time: float, version: int, response: str, reward: float = 1.0) -> dict[str, Any]:
    return {"time": time, "version": version, "prompt": "312=", "response": response, "reward": reward}


def recorded_sample(row: dict[str, Any]) -> RecordedGroup:
    """A recorded group whose one response is a sample."""
    said = recorded.response(row["response"], row["reward"], row["version"])
    prompt = (RecordedTurn(role="prompt", text=row["prompt"]),)
    return recorded.group(row["time"], [said], prompt=prompt)


def make_run(directory: Path, steps: int = 3) -> RunFile:
    """Makes the directory of a demo run with ``steps`` steps of one worker; returns its run file."""
    plain = "learner.objective.name=asympo"  # without the default's averaged versions and governed rate
    run_file = RunFile.read(DEMO, [f"run.dir={directory}", f"learner.steps={steps}", plain])
    run = run_file.directory
    run.create()
    run_file.absolute().write(run.settings)
    start = {"kind": "start", "time": 1000.0, "epoch": 1, "resumed_step": 0, "recommitted": 0}
    warmup = {"kind": "warmup", "time": 995.0, "step": 5, "nll": 1.0, "target_probability": 0.22}
    versions = [
        {"kind": "version", "time": 1000.0 + n, "version": n, "step": n, "seconds": 0.1} for n in range(steps + 1)
    ]
    learner = [warmup, start, *versions, *(step(number) for number in range(1, steps + 1))]
    write_rows(run.metrics / "learner.jsonl", learner)
    refit = {"kind": "refit", "time": 1001.5, "engine": 0, "version": 1, "seconds": 0.1}
    write_rows(run.metrics / "worker-0.jsonl", [progress(1001.0, 12), refit, progress(1003.0, 36)])
    samples = [sample(1000.5, 0, "999", 0.0), sample(1003.0, steps, "123")]
    recorded.write_records(run.rollouts, map(recorded_sample, samples))
    return run_file
