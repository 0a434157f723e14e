"""Tells which groups count towards a step: those that its objective trains something of. Importable without torch."""

from __future__ import annotations

from learner.batch.weighting import Keep
from leeway.v1 import rollout_pb2 as pb


def counts(group: pb.Group, keep: Keep) -> bool:
    """Whether anything of a group is trained.

    Args:
        group: the group; its tokens are not read.
        keep: the objective's choice of responses. "effective" and "informative": the group needs two scored responses whose
            rewards differ; "all": any two scored responses will do, as its added terms do not vanish with the advantage.
    """
    rewards = [response.reward for response in group.responses if not response.unscored]
    return len(rewards) > 1 and (keep == "all" or min(rewards) != max(rewards))


def clear_tokens(group: pb.Group) -> None:
    """Drops the token ids and experts of a group, which are nearly all of its bytes; rewards, spans and names stay."""
    group.ClearField("prompt_tokens")
    for response in group.responses:
        response.ClearField("tokens")
        response.ClearField("routed_experts")
        for segment in response.segments:
            segment.ClearField("context_tokens")
            segment.ClearField("tokens")
            segment.ClearField("routed_experts")
