"""Checks of the task: that it loads, what its prompts look like and how long they are, what it rewards."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from learner.cli.preflight.dry_run import DryRunReport, dry_run
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, warn
from learner.cli.preflight.limits import longest_prompt, sequence_findings
from rollout.config import WorkerConfig

_PROMPTS, _LIMIT_S = 1000, 60.0
_BRIEF_PROMPTS, _BRIEF_LIMIT_S = 100, 20.0
_SLOW_START_S = 60.0  # of the process in which a slow task judges, whose imports can take that long
_RIGHT, _EMPTY = "a right answer", "an empty response"


def task(examined: ExaminedConfig, network: Mapping[str, Any] | None, brief: bool = False) -> Iterator[Finding]:
    """Tries every task of the first worker, since workers of a run have the same ones, and every one that is evaluated.

    Args:
        examined: the run, or the file of a worker; of other files there is nothing to try.
        network: content of the model's config.json; None where it cannot be read, which the check of the model reports.
        brief: only what takes a second: up to 100 prompts, slow tasks score nothing. A task that needs longer than the limit
            is then a warning.
    """
    if not examined.workers or network is None:
        return
    first = examined.workers[0]
    for one in first.task:
        for found in _one(examined, first.model_copy(update={"task": (one,)}), network, brief):
            yield found if len(first.task) == 1 else replace(found, found=f"{one.label}: {found.found}")
    for one in examined.evaluated:
        for found in _one(examined, first.model_copy(update={"task": (one,)}), network, brief):
            yield replace(found, found=f"evaluation of {one.label}: {found.found}")


def _one(examined: ExaminedConfig, worker: WorkerConfig, network: Mapping[str, Any], brief: bool) -> Iterator[Finding]:
    """Tries the only task of a worker."""
    (tried,) = worker.task
    if tried.python is not None:
        yield warn(
            "task",
            f"task.python = {tried.python}: not tried: what it runs need not be installed here",
            "look at the first lines of the worker's log",
        )
        return
    most = longest_prompt(examined, worker, network)
    request = {
        "config": json.loads(worker.model_dump_json()),
        "demo_model": examined.demo_model,
        "prompts": _BRIEF_PROMPTS if brief else _PROMPTS,
        "measure_s": 0.5 if brief else _LIMIT_S / 3,
        "longest": most,
        "brief": brief,
    }
    limit_s = _BRIEF_LIMIT_S if brief else _LIMIT_S + _SLOW_START_S + 2 * tried.reward_timeout_s
    report = dry_run(request, limit_s)
    yield from report.findings
    if report.unfinished:
        state = "warn" if brief and report.hung else "fail"  # it may only be slow
        yield Finding("task", state, report.unfinished, "the worker would hang or end there too: correct the task")
    if report.lengths:
        yield from _lengths(report.lengths, most, worker)
        yield from sequence_findings(examined, worker, report.lengths["longest"])
    yield from _rewards(report, examined)


def _lengths(lengths: Mapping[str, Any], most: int, worker: WorkerConfig) -> Iterator[Finding]:
    text = (
        f"{lengths['prompts']} prompts measured{_of(lengths['size'])}, {lengths['distinct']} of them different: "
        f"{lengths['shortest']} to {lengths['longest']} tokens, median {lengths['median']}"
    )
    (tried,) = worker.task
    held_out = f"{lengths['held_out']} of them held out for evaluation"
    if lengths["held_out"] == lengths["size"]:
        fix = "lower rollout.task.held_out: no prompt is left to train on"
        yield fail("prompts", f"{text}; {held_out}: task.held_out = {tried.held_out:g}", fix)
        return
    if not lengths["too_long"]:
        yield ok("prompts", f"{text}; {held_out}" if tried.held_out else text)
        return
    text += (
        f"; {lengths['too_long']} are longer than the {most} tokens that fit beside sampling.max_new_tokens = "
        f"{worker.sampling.max_new_tokens} (the model's context, gateway.limits.max_prompt_tokens)"
    )
    fix = "lower rollout.sampling.max_new_tokens, shorten the prompts, or use a model with a longer context"
    if 2 * lengths["too_long"] > lengths["prompts"]:
        yield fail("prompts", text, fix)
    else:
        yield warn("prompts", text + ": an engine refuses these, and what is asked in the same request", fix)


def _of(prompts: int | None) -> str:
    return "" if prompts is None else f" of {prompts}"


def _rewards(report: DryRunReport, examined: ExaminedConfig) -> Iterator[Finding]:
    rewards = report.rewards
    if not rewards:
        return
    text = ", ".join(f"{what} {reward:g}" for what, reward in rewards.items())
    if _RIGHT not in rewards and examined.learner is not None and examined.learner.warmup is not None:
        yield fail(
            "reward", f"{text}; the task knows no solutions, which [learner.warmup] needs", "remove [learner.warmup]"
        )
        return
    if examined.gateway is not None:
        low, high = examined.gateway.limits.reward_range
        outside = next((what for what, reward in rewards.items() if not low <= reward <= high), None)
        if outside is not None:
            accepts = f"gateway.limits.reward_range = [{low:g}, {high:g}]"
            what = f"the reward of {outside} is {rewards[outside]:g}, outside {accepts}"
            yield fail("reward", what, "the gateway would reject the group: scale the reward, or widen the range")
            return
    if _RIGHT in rewards and _EMPTY in rewards and rewards[_RIGHT] <= rewards[_EMPTY]:
        yield warn(
            "reward", text, "expected a higher reward for the right answer: check the task's reward and solution"
        )
    else:
        yield ok("reward", text)
