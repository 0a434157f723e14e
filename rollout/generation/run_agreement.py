"""Compares a worker's settings with what its run takes, before anything is generated that would be rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import structlog

from leeway.v1 import rollout_pb2
from rollout.client import SubmitClient
from rollout.config import SamplingConfig, WorkerConfig
from rollout.engine.adapters import AdapterLimits
from runtime.settings import SettingsError


class Vocabulary(Protocol):
    """What is known of the token ids that a worker's engines can sample."""

    vocab_size: int  # of the model: rows of its embedding

    @property
    def largest_id(self) -> int:
        """The largest id that stands for text."""
        ...


async def agreed_run(
    client: SubmitClient, config: WorkerConfig, vocabulary: Vocabulary
) -> rollout_pb2.DescribeRunResponse:
    """Asks the gateway what its run takes, however long that takes to answer, and compares it with a worker's settings.

    Args:
        client: a connection to the gateway.
        config: the worker's settings.
        vocabulary: of the worker's model.

    Returns:
        The gateway's answer.

    Raises:
        SettingsError: the gateway would reject groups that are made with these settings.
        AuthError: the credentials are refused.
    """
    run = await client.describe_run()
    if found := list(disagreements(run, config, vocabulary)):
        raise SettingsError(f"the gateway at {config.gateway} would reject this worker's groups: {'; '.join(found)}")
    for text in unheeded(run.wanted, config):
        structlog.get_logger(process=config.name).warning("the run's owner wants other responses", difference=text)
    return run


def adapters_to_load(run: rollout_pb2.DescribeRunResponse, config: WorkerConfig) -> AdapterLimits | None:
    """What engines have to be prepared for to load a run's adapters; None: there are none, or the worker merges them."""
    if not run.HasField("adapters") or not config.engine.loads_adapters:
        return None
    limits = AdapterLimits(run.adapters.rank, tuple(run.adapters.targets))
    if limits.loadable:
        return limits
    structlog.get_logger(process=config.name).warning(
        "engines cannot load adapters of these projections without others: the worker merges them into a copy of the model",
        targets=list(limits.targets),
    )
    return None


def disagreements(run: rollout_pb2.DescribeRunResponse, config: WorkerConfig, vocabulary: Vocabulary) -> Iterator[str]:
    """Yields each way in which groups made with a worker's settings would be rejected: the setting, its value, what to do."""
    sampling = config.sampling
    ids = min(vocabulary.largest_id + 1, vocabulary.vocab_size)
    if not ids <= run.vocab_size <= vocabulary.vocab_size:
        yield (
            f"model = {config.model}: it has {ids} token ids that stand for text, {vocabulary.vocab_size} in all, and the "
            f"run takes ids below {run.vocab_size}: set model to the run's, or the gateway's limits.vocab_size to {ids}"
        )
    fewest, most = run.min_group_size, run.max_group_size
    if not fewest <= sampling.responses <= most:
        yield f"sampling.responses = {sampling.responses}: set it to {_range(fewest, most)}"
    temperature = rollout_pb2.Group(temperature=sampling.temperature).temperature  # groups have it in single precision
    if not run.min_temperature <= temperature <= run.max_temperature:
        yield (
            f"sampling.temperature = {sampling.temperature:g}: set it to "
            f"{_range(float(f'{run.min_temperature:.7g}'), float(f'{run.max_temperature:.7g}'))}"
        )
    if sampling.max_new_tokens > run.max_response_tokens:
        yield f"sampling.max_new_tokens = {sampling.max_new_tokens}: set it to {run.max_response_tokens} or less"
    if config.max_message_bytes > run.max_message_bytes:
        yield f"max_message_bytes = {config.max_message_bytes}: set it to {run.max_message_bytes} or less"
    if config.engine.return_routed_experts and not run.HasField("routing"):
        yield "engine.return_routed_experts = true: the run's model has no experts; set it to false"
    if not run.takes_truncated_sampling:
        for name, value in _truncations(sampling, run.vocab_size):
            yield f"sampling.{name} = {value:g}: the run takes no truncated sampling; leave it out"


def unheeded(wanted: rollout_pb2.Wanted, config: WorkerConfig) -> Iterator[str]:
    """Yields each setting of a worker that is not what the run's owner wants. A fleet of its own kind need not obey."""
    sampling = config.sampling
    for name, field, value in (
        ("sampling.temperature", "temperature", rollout_pb2.Wanted(temperature=sampling.temperature).temperature),
        *_prompt_formats(config),
        ("sampling.responses", "group_size", sampling.responses),
        ("sampling.max_new_tokens", "max_new_tokens", sampling.max_new_tokens),
    ):
        asked = getattr(wanted, field)
        given = bool(asked) if field == "prompt_format" else wanted.HasField(field)
        if given and asked != value:
            shown = [f"{one:.7g}" if isinstance(one, float) else str(one) for one in (value, asked)]
            yield f"{name} = {shown[0]}: the run's owner wants {shown[1]}"
    if wanted.routed_experts and not config.engine.return_routed_experts:
        yield "engine.return_routed_experts = false: the run's owner wants true"


def _prompt_formats(config: WorkerConfig) -> Iterator[tuple[str, str, str]]:
    """Yields the setting, the field of what is wanted, and the value, for every task."""
    for number, task in enumerate(config.task):
        place = f"task.{number}" if len(config.task) > 1 else "task"
        yield f"{place}.prompt_format", "prompt_format", task.prompt_format


def _truncations(sampling: SamplingConfig, vocab_size: int) -> Iterator[tuple[str, float]]:
    """Yields the sampling parameters that make some tokens impossible, with their values."""
    if sampling.top_p is not None and sampling.top_p < 1:
        yield "top_p", sampling.top_p
    if sampling.top_k is not None and sampling.top_k < vocab_size:
        yield "top_k", sampling.top_k
    if sampling.min_p:
        yield "min_p", sampling.min_p


def _range(lowest: float, highest: float) -> str:
    return f"{lowest:g}" if lowest == highest else f"{lowest:g} to {highest:g}"
