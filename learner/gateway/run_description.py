"""What a fleet has to know of the run before it generates anything: the answer to DescribeRun."""

from __future__ import annotations

from learner.config import GatewayConfig, LimitsConfig
from leeway.v1 import rollout_pb2

CONTRACT_REVISION = 4  # the last of those that the end of proto/leeway/v1/rollout.proto lists


def describe_limits(limits: LimitsConfig) -> rollout_pb2.DescribeRunResponse:
    """Describes what groups are checked against; the other fields stay empty."""
    return rollout_pb2.DescribeRunResponse(
        contract_revision=CONTRACT_REVISION,
        vocab_size=limits.vocab_size,
        min_group_size=limits.group_size[0],
        max_group_size=limits.group_size[1],
        min_reward=limits.reward_range[0],
        max_reward=limits.reward_range[1],
        min_temperature=limits.temperature_range[0],
        max_temperature=limits.temperature_range[1],
        max_prompt_tokens=limits.max_prompt_tokens,
        max_response_tokens=limits.max_response_tokens,
        max_response_context_tokens=limits.max_response_context_tokens,
        max_message_bytes=limits.max_message_bytes,
        takes_truncated_sampling=limits.truncated_sampling,
        routing=None if limits.routing is None else rollout_pb2.RoutedExperts(**limits.routing.model_dump()),
    )


def describe_run(config: GatewayConfig, finished: bool) -> rollout_pb2.DescribeRunResponse:
    """Describes the run of a gateway.

    Args:
        config: the gateway's settings.
        finished: whether the run has made all its steps.
    """
    admission, wanted = config.admission, config.wanted
    description = rollout_pb2.DescribeRunResponse(
        run=config.queue.run,
        wanted=rollout_pb2.Wanted(
            temperature=wanted.temperature,
            prompt_format=wanted.prompt_format or "",
            group_size=wanted.group_size,
            max_new_tokens=wanted.max_new_tokens,
            routed_experts=wanted.routed_experts,
        ),
        max_staleness=admission.max_staleness,
        expire_after=admission.expire_after,
        finished=finished,
    )
    description.MergeFrom(describe_limits(config.limits))
    if config.adapters is not None:
        form = rollout_pb2.AdapterForm(rank=config.adapters.rank, targets=config.adapters.targets)
        description.adapters.CopyFrom(form)
    return description
