"""Configuration alone makes a run of two sources, a reward of three parts and an evaluation: real GSM8K in Parquet files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from learner.cli.report.report import write_report
from learner.cli.run.run_directory import RunDirectory
from tests.e2e.live import REPOSITORY, LiveRun, free_ports
from tests.e2e.observed import unseen_of_evaluated_parts
from tests.tools.chain_model import AFTER_USER, END, write_chain_model

_GSM8K = REPOSITORY.parent / "shared" / "data" / "gsm8k"
_STEPS, _PORTS, _START_S, _PROMPTS = 20, 64, 600, 16
_NUMBERS = [str(number) for number in range(1, 16)]
# Answers with a number in a box, half of the time after a thought.
_TABLE = {
    AFTER_USER: ["<think>", "\\boxed{"], "<think>": [" hm"], " hm": ["</think>", " hm"], "</think>": ["\\boxed{"],
    "\\boxed{": _NUMBERS, **{number: ["}"] for number in _NUMBERS}, "}": [END],
}  # fmt: skip
_SMALL = {
    "learner.steps": _STEPS, "learner.groups_per_step": 4, "learner.dtype": "float32", "learner.optimizer.lr": 2e-5,
    "learner.micro_batch_tokens": 8192, "rollout.engine.device": "cpu", "rollout.engine.arguments": "[]",
    "rollout.engine.start_timeout_s": _START_S, "rollout.sampling.responses": 4, "rollout.sampling.max_new_tokens": 12,
    "rollout.task.0.processes": 1, "rollout.task.0.reward.2.options": "{from_tokens = 4, to_tokens = 12}",
    "eval.every": 0, "eval.prompts": _PROMPTS, "eval.sampling.1.samples": 4,
}  # fmt: skip


def _parquet(source: Path, target: Path) -> Path:
    rows = [json.loads(line) for line in source.read_text().split("\n") if line.strip()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), target, row_group_size=1000)
    return target


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not _GSM8K.is_dir(), reason="GSM8K is not beside the repository")
def test_a_mixture_with_parts_and_an_evaluation(tmp_path: Path, start_run: Callable[..., LiveRun]):
    write_chain_model(tmp_path / "model", _TABLE)
    directory, port = tmp_path / "mixture", free_ports(_PORTS)
    settings = {
        **_SMALL, "model.path": tmp_path / "model", "run.dir": directory, "gateway.listen": f"127.0.0.1:{port}",
        "rollout.engine.base_port": port + 1, "run.status_port": port + 10,
        "rollout.task.0.options.path": _parquet(_GSM8K / "train.jsonl", tmp_path / "train.parquet"),
        "eval.task.0.options.path": _parquet(_GSM8K / "test.jsonl", tmp_path / "test.parquet"),
    }  # fmt: skip
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    run = start_run(directory, str(REPOSITORY / "configs" / "mixture.toml"), *changes)
    run.wait_until(lambda: unseen_of_evaluated_parts(port + 10) == set(), "series of evaluations and parts", _START_S)
    assert run.finish(2 * _START_S) == 0, run.output.read_text()[-4000:]
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["steps"], summary["ledger_balanced"]) == (_STEPS, True)

    steps = [row for row in run.rows("learner.jsonl") if row["kind"] == "step"]
    tasks = [row["tasks"] for row in steps]
    parts = {part for each in tasks for part in each.get("gsm8k", {}).get("parts", {})}
    assert parts == {"correct", "format", "length"}
    assert any("add" in each for each in tasks)
    # A step has as many groups with a contrast as it wants, or has taken four times as many to find them.
    assert all(row["groups_informative"] == 4 or (row["ending"], row["groups"]) == ("most", 16) for row in steps)

    results = run.rows("evaluations.jsonl")
    found = {(row["version"], row["name"], row["sampling"]) for row in results}
    names, samplings = ("gsm8k-test", "add"), ("greedy", "sampled")
    assert found == {(version, name, sampling) for version in (0, _STEPS) for name in names for sampling in samplings}
    assert {row["prompts"] for row in results} == {_PROMPTS}

    page = write_report(RunDirectory.existing(directory)).read_text()
    for shown in ("gsm8k-test", "correct", "format", "boxed"):
        assert shown in page, shown
    shutil.rmtree(directory)
