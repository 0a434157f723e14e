"""Tests of the whole loop as a user runs it: start to report, killed processes, Ctrl-C and resume."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from learner.publish.catalog import base_of
from runtime.version_format.names import versions_on_disk
from tests.e2e.accounts import Accounts
from tests.e2e.live import REPOSITORY, LiveRun, free_ports
from tests.e2e.observed import unseen

Start = Callable[..., LiveRun]
_PORTS = 64  # of the gateway, an engine, and every process's status
_START_S = 600  # five interpreters that import torch, on two cores that others use as well
_WAIT_S = 300  # for anything that takes seconds


def options(directory: Path, port: int, **settings: object) -> list[str]:
    """Arguments for a shorter run of the demo's configuration, with addresses of its own."""
    values = {
        "run.dir": directory, "run.name": directory.name, "gateway.listen": f"127.0.0.1:{port}",
        "rollout.engine.base_port": port + 1, "run.status_port": port + 10,
        "rollout.engine.start_timeout_s": _START_S, "eval.engine.base_port": port + 2,
        "eval.engine.start_timeout_s": _START_S, "eval.first": "false", "eval.final": "false", **settings,
    }  # fmt: skip
    return ["configs/demo.toml", *(part for key, value in values.items() for part in ("--set", f"{key}={value}"))]


def leeway(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "learner.cli.app", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=_WAIT_S)


def assert_nothing_lost_or_doubled(directory: Path) -> None:
    """Compares the producers' logs with the learner's, and both with the ledger."""
    accounts = Accounts.read(directory)
    assert accounts.surviving
    assert [id_ for id_, count in Counter(accounts.surviving).items() if count > 1] == []
    reply = leeway("ledger", str(directory), "--check", "--json")
    assert reply.returncode == 0, reply.stdout + reply.stderr
    (ledger,) = json.loads(reply.stdout)
    assert ledger["trained"] == len(accounts.surviving)
    assert ledger["in_flight"] == 0
    left = accounts.acked - set(accounts.surviving)
    assert len(left) <= ledger["queued"] + ledger["expired"]
    assert ledger["accepted"] == len(accounts.surviving) + ledger["queued"] + ledger["expired"]


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


@pytest.mark.timeout(1800)
def test_killed_gateway_worker_and_learner_lose_nothing_and_the_run_ends_by_itself(tmp_path: Path, start_run: Start):
    directory = tmp_path / "killed"
    settings = {"learner.steps": 60, "learner.checkpoint.every": 8, "learner.publish.full_every": 4}
    settings |= {"eval.first": "true", "eval.final": "true", "eval.prompts": 32}
    run = start_run(directory, *options(directory, free_ports(_PORTS), **settings))
    run.wait_until(lambda: run.steps() >= 5, "step 5", _START_S)
    run.kill("gateway")
    run.wait_until(lambda: run.steps() >= 20, "step 20 after the gateway's death", _WAIT_S)
    worker = psutil.Process(run.pid("worker-0"))
    run.kill("worker-0")
    run.kill("evaluator")  # the next one goes on with the first version, which its predecessor has kept
    worker.wait(_WAIT_S)
    shutil.rmtree(directory / "state" / "versions")  # as on another machine: it has missed every delta
    run.wait_until(lambda: run.steps() >= 35, "step 35 after the worker's death", _START_S)
    run.kill("learner")
    assert run.finish(_START_S) == 0, run.output.read_text()[-4000:]
    starts = [row for row in run.rows("learner.jsonl") if row["kind"] == "start"]
    assert [row["epoch"] for row in starts] == [1, 2]
    assert starts[1]["resumed_step"] >= 24
    assert run.steps() == 60
    assert_nothing_lost_or_doubled(directory)
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["steps"] == 60
    assert summary["ledger_balanced"] is True
    assert_engines_followed_the_deltas(directory, run)
    published = [row["version"] for row in run.rows("learner.jsonl") if row["kind"] == "version"]
    evaluated = [(row["version"], row["sampling"], row["prompts"]) for row in run.rows("evaluations.jsonl")]
    ends = min(published), max(published)
    assert evaluated == [(version, sampling, 32) for version in ends for sampling in ("greedy", "sampled")]


def assert_engines_followed_the_deltas(directory: Path, run: LiveRun) -> None:
    """Checks that both lives of the worker refitted by deltas, the second from a full version on, and verified every bit."""
    rows = run.rows("worker-0.jsonl")
    assert [row for row in rows if row["kind"] == "refused"] == []
    starts = [i for i, row in enumerate(rows) if row["kind"] == "engine" and row["state"] == "starting"]
    assert len(starts) >= 2
    published = [row["version"] for row in run.rows("learner.jsonl") if row["kind"] == "version"]
    for life in (rows[: starts[-1]], rows[starts[-1] :]):
        refits = [row["version"] for row in life if row["kind"] == "refit"]
        assert len(refits) >= 5
    assert refits[-1] >= published[-4]  # the run ends before the very last one is needed
    kept = versions_on_disk(directory / "weights")
    assert kept[-1] == published[-1]
    assert any(base_of(directory / "weights", version) is not None for version in kept)
    verified = leeway("policy", "verify", str(directory))
    assert verified.returncode == 0, verified.stdout


@pytest.mark.timeout(1800)
def test_ctrl_c_stops_everything_and_resume_goes_on_to_a_full_report(tmp_path: Path, start_run: Start):
    directory = tmp_path / "stopped"
    port = free_ports(_PORTS)
    # More steps than any machine makes meanwhile; the second part says how many more it takes.
    run = start_run(directory, *options(directory, port, **{"learner.steps": 100_000}))
    run.wait_until(lambda: run.steps() >= 8, "step 8", _START_S)
    run.wait_until(lambda: unseen(port + 10) == set(), "series for every query", _WAIT_S)
    processes = family(run.process.pid)
    assert len(processes) > 8  # supervisor, redis, gateway, torchrun, four ranks, worker, SGLang's three
    run.process.send_signal(signal.SIGINT)
    run.finish(_WAIT_S)
    assert [process for process in processes if process.is_running()] == []
    reached = run.steps()
    assert reached >= 8

    steps = reached + 30
    again = start_run(directory, *options(directory, port, **{"learner.steps": steps}), "--resume")
    assert again.finish(_START_S + _WAIT_S) == 0, again.output.read_text()[-4000:]
    starts = [row for row in again.rows("learner.jsonl") if row["kind"] == "start"]
    assert starts[-1]["resumed_step"] == reached  # the stop had saved the last step
    assert_nothing_lost_or_doubled(directory)
    skipped = sum(row["kind"] == "coalesced" for row in again.rows("learner.jsonl"))  # on a machine that is busy
    check_report(directory, steps, steps - skipped)


def check_report(directory: Path, steps: int, versions: int) -> None:
    summary = json.loads((directory / "summary.json").read_text())
    wanted = "steps wall_s reward_first10 reward_last20 staleness_mean staleness_max tokens_generated tokens_trained"
    assert {*wanted.split(), "versions_published", "ledger_balanced"} <= set(summary)
    assert summary["steps"] == steps
    assert summary["versions_published"] >= versions
    assert summary["staleness_mean"] > 0
    assert summary["tokens_trained"] > 0
    assert summary["reward_last20"] > 0
    report = (directory / "report.html").read_text()
    assert "<svg" in report
    assert 'src="http' not in report
    assert 'href="http' not in report
    refits = [json.loads(line) for line in (directory / "metrics/worker-0.jsonl").read_text().splitlines()]
    assert max(row["version"] for row in refits if row["kind"] == "refit") > 0
