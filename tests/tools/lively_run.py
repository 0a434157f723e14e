"""Makes a run directory with realistic rows: evaluations, a mixture of tasks, long responses, some waste.

``python -m tests.tools.lively_run DIR [--seed N] [--steps N]`` makes one to look at: the report, the comparison, the summary.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import summarize, write_summary
from leeway.v1 import rollout_pb2
from tests.tools.recorded import write_records
from tests.tools.runs import DEMO, recorded_sample, step, write_rows

START = 1_000_000.0  # Unix seconds
STEP_S = 4.0
RESPONSES = 128  # of a step
LONG_PROMPT = "user: " + "Natalia sold clips to 48 of her friends in April, and half as many in May. " * 6


def lengths(middle: float, spread: float) -> dict[str, float]:
    """Statistics of response lengths around ``middle`` tokens."""
    return {"mean": middle, "p50": 0.95 * middle, "p95": middle + 1.6 * spread, "max": middle + 3 * spread}


def lively_step(number: int, steps: int, draw: random.Random) -> dict[str, Any]:
    """Makes the row of a step of a run that learns, more slowly towards its end, and gets longer answers."""
    done = 1 - math.exp(-3 * number / steps)
    noise = draw.gauss(0, 0.03)
    reward, right, wrong = 0.15 + 0.6 * done + noise, 0.05 + 0.35 * done, 0.4 - 0.33 * done
    length = 180 + 140 * done + draw.gauss(0, 8)
    parts = {"answer": reward - 0.05, "format": min(1.0, 0.5 + 0.5 * done), "length_penalty": -0.1 * done}
    sorting = {"answer": min(1.0, 0.3 + 0.6 * done + noise)}
    tokens = int(RESPONSES * length)
    return step(
        number, time=START + STEP_S * number + draw.random(), reward=reward, reward_sd=0.44 - 0.1 * done, tokens=tokens,
        groups=16, responses=RESPONSES, late=draw.randrange(3), informative=1 - right - wrong, all_right=right,
        all_wrong=wrong, groups_informative=round(16 * (1 - right - wrong)), truncated=max(0.0, 0.36 - 0.2 * done),
        trained_tokens=int(tokens * 0.6), length=lengths(length, 90), length_positive=lengths(0.9 * length, 60),
        length_negative=lengths(1.2 * length, 110),
        length_by_finish={"stop": lengths(0.85 * length, 70), "length": lengths(512, 0), "abort": lengths(40, 20)},
        staleness_mean=1.2 + draw.gauss(0, 0.2), staleness_max=4, nll_positive=0.4 - 0.2 * done, nll_negative=0.9,
        staleness_tokens={"0": tokens // 5, "1": tokens // 2, "2": tokens // 4, "4": tokens // 20}, entropy=0.9 - 0.4 * done,
        rho=0.1 + 0.05 * abs(draw.gauss(0, 1)), grad_norm=0.8 + 0.1 * draw.random(), expired=number // 3, unscored=0.03,
        wait_s=0.6 * draw.random(), train_s=2.6, publish_s=0.2, step_s=STEP_S, queue_depth=draw.randrange(10, 40),
        tokens_wasted={"expired": 600, "without_contrast": int(tokens * 0.4)},
        tasks={
            "gsm8k": {"groups": 12, "reward": reward, "reward_sd": 0.4, "informative": 0.5, "parts": parts},
            "sort": {"groups": 4, "reward": sorting["answer"], "reward_sd": 0.3, "informative": 0.6, "parts": sorting},
        },
    )  # fmt: skip


def evaluation(version: int, name: str, sampling: str, value: float, half: float, **values: Any) -> dict[str, Any]:
    """Makes the row of an evaluation whose mean is ``value`` plus or minus ``half``."""
    row = {
        "kind": "evaluation", "time": START + STEP_S * version + 30, "version": version, "name": name, "sampling": sampling,
        "prompts": 256, "samples": 1 if sampling == "greedy" else 8, "unscored": 0, "seconds": 31.5,
        "metrics": {
            "mean@1": [value, value - half, value + half], "length_mean": [300.0, 290.0, 310.0],
            "truncated": [0.12, 0.09, 0.15],
        },
    }  # fmt: skip
    return {**row, **values}


def make_lively_run(directory: Path, steps: int = 60, seed: int = 0) -> RunFile:
    """Makes the directory of a run of ``steps`` steps that has ended; returns its run file."""
    draw = random.Random(seed)
    run_file = RunFile.read(DEMO, [f"run.dir={directory}", f"learner.steps={steps}", f"run.seed={seed}"])
    run = run_file.directory
    run.create()
    run_file.absolute().write(run.settings)
    start = {"kind": "start", "time": START, "epoch": 1, "resumed_step": 0, "recommitted": 0}
    published = [
        {"kind": "version", "time": START + STEP_S * n, "version": n, "step": n, "seconds": 0.1}
        for n in range(steps + 1)
    ]
    rows = [lively_step(number, steps, draw) for number in range(1, steps + 1)]
    write_rows(run.metrics / "learner.jsonl", [start, *published, *rows])
    generated = 0
    for number in range(1, 2 * steps):
        generated += (made := draw.randrange(9000, 13000))
        time = START + STEP_S / 2 * number
        progress = {"kind": "progress", "time": time, "tokens_generated": generated, "tokens_per_s": made / 2}
        refit = {"kind": "refit", "time": time + 0.4, "engine": 0, "version": number // 2, "seconds": 0.3}
        write_rows(run.metrics / "worker-0.jsonl", [progress, refit])
    evaluated = sorted({*range(0, steps + 1, max(1, steps // 6)), steps})
    for version in evaluated:
        done = 1 - math.exp(-3 * version / steps)
        results = [
            evaluation(version, "gsm8k", "greedy", 0.2 + 0.5 * done, 0.05),
            evaluation(version, "gsm8k", "temperature 1.0", 0.16 + 0.48 * done, 0.03),
            evaluation(version, "sort", "greedy", 0.5 + 0.3 * done, 0.06),
        ]
        write_rows(run.metrics / "evaluations.jsonl", results)
    answers = ["48 / 2 = 24\nNatalia sold 48 + 24 = 72 clips.\n#### 72", "I think that the answer is 70", "12 " * 500]
    for version in (0, steps):
        for index, answer in enumerate(answers):
            row = {"time": START + version, "version": version, "prompt": LONG_PROMPT, "response": answer}
            write_records(run.rollouts, [recorded_sample(row | {"reward": float(index == 0)})])
    ledger = rollout_pb2.Ledger(
        fleet="local", received=16 * steps + 160, accepted=16 * steps + 150, duplicate=10, trained=16 * steps + 20,
        expired=130, without_contrast=300, unscored=240, unscored_responses_by_reason={"reward_timeout": 200, "judge": 40},
    )  # fmt: skip
    for version in (steps - 1, steps):
        (run.weights / f"weight_v{version:06d}").mkdir()
    outcome = Outcome(START - 60, START + STEP_S * steps, START + STEP_S * steps + 2, ledgers=[ledger])
    write_summary(run, summarize(run_file, RunHistory(run.metrics).poll(), outcome))
    return run_file


def main() -> None:
    """Makes a run directory and prints what it is worth looking at."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run = make_lively_run(given.directory, given.steps, given.seed).directory
    print(json.dumps({"report": f"leeway report {run.root}", "compare": f"leeway compare {run.root} OTHER"}, indent=1))


if __name__ == "__main__":
    main()
