"""Checks of lengths and sampling: the model's context, the learner's micro-batches, and what the gateway accepts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail
from learner.config.rope import rope_settings
from rollout.config import WorkerConfig

_CONTEXT_OPTION = "--context-length"


def limits(examined: ExaminedConfig, network: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Checks what can be said without a prompt: the shortest one has one token.

    Args:
        examined: the settings of each process.
        network: content of the model's config.json; None where it cannot be read.
    """
    for worker in examined.workers:
        yield from _sampling(examined, worker)
        yield from sequence_findings(examined, worker, 1)
        if network is not None and longest_prompt(examined, worker, network) < 1:
            context = _context(worker, network)
            text = (
                f"rollout.sampling.max_new_tokens = {worker.sampling.max_new_tokens} leaves no room for a prompt: the engine "
                f"reads {context} tokens (the model's max_position_embeddings, or {_CONTEXT_OPTION})"
            )
            yield fail("context", text, f"set it below {context}, or use a model with a longer context")
        return  # workers of a run have the same settings


def longest_prompt(examined: ExaminedConfig, worker: WorkerConfig, network: Mapping[str, Any]) -> int:
    """The most tokens of a prompt that the engine and the gateway take beside ``max_new_tokens``; below 1 if none fits."""
    most = _context(worker, network) - worker.sampling.max_new_tokens
    return most if examined.gateway is None else min(most, examined.gateway.limits.max_prompt_tokens)


def sequence_findings(examined: ExaminedConfig, worker: WorkerConfig, prompt: int) -> Iterator[Finding]:
    """Compares the longest possible sequence with the learner's micro-batches: a longer one is computed all the same, in a
    micro-batch of its own that memory was not planned for.

    Args:
        examined: the settings of each process.
        worker: whose ``max_new_tokens`` counts.
        prompt: tokens of the longest prompt.
    """
    if examined.learner is None:
        return
    longest, most = prompt + worker.sampling.max_new_tokens, examined.learner.micro_batch_tokens
    if longest > most:
        text = (
            f"learner.micro_batch_tokens = {most} is below the longest possible sequence: a prompt of {prompt} and "
            f"rollout.sampling.max_new_tokens = {worker.sampling.max_new_tokens}"
        )
        yield fail("micro-batch", text, f"set it to {longest} or more, or lower max_new_tokens")


def _context(worker: WorkerConfig, network: Mapping[str, Any]) -> int:
    """Tokens of a prompt and its response together, above which SGLang refuses a request.

    The learner computes any position. max_position_embeddings includes what the scaling of llama3 and yarn adds; SGLang
    multiplies it by the factor of linear.
    """
    words = [word for argument in worker.engine.arguments for word in argument.split("=", 1)]
    for option, value in itertools.pairwise(words):
        if option == _CONTEXT_OPTION and value.isdecimal():
            return int(value)
    rope = rope_settings(network)
    return int(network["max_position_embeddings"] * (rope["factor"] if rope["rope_type"] == "linear" else 1))


def _sampling(examined: ExaminedConfig, worker: WorkerConfig) -> Iterator[Finding]:
    """Checks what the gateway would reject of every group."""
    if examined.gateway is None:
        return
    accepted = examined.gateway.limits
    low, high = accepted.temperature_range
    temperature = worker.sampling.temperature
    if not low <= temperature <= high:
        accepts = f"gateway.limits.temperature_range = [{low:g}, {high:g}]"
        text = f"rollout.sampling.temperature = {temperature:g} is outside {accepts}"
        yield fail("sampling", text, "the gateway would reject every group: change one of them")
    fewest, most = accepted.group_size
    if not fewest <= worker.sampling.responses <= most:
        text = f"rollout.sampling.responses = {worker.sampling.responses} is outside limits.group_size = [{fewest}, {most}]"
        yield fail("sampling", text, "the gateway would reject every group: change one of them")
