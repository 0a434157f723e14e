"""Lets an object of ours choose the experts of a router's tokens.

What it changes: ``router_replay`` of one router, which megatron's top-k asks in place of its own choice.
Why: megatron puts its own RouterReplay there (moe_enable_routing_replay). That is told the ids of all tokens of one
micro-batch, in a list that every layer shares: it knows no token without a record, and not which micro-batch's layer the
backward pass is computing again.
Written for: megatron-core 0.16.1 and 0.19.2.
Without it: learner.replay_routing has nothing that would obey it.
"""

from __future__ import annotations

from typing import Any, Protocol

from megatron.core.transformer.moe.router_replay import RouterReplay
from torch import Tensor

from learner.megatron.patches.guard import PatchError, require_release, require_signature

_SIGNATURE = "(self, scores, topk, num_groups=None, group_topk=None, default_compute_topk=None)"


class ExpertChoice(Protocol):
    """What megatron's top-k asks for the experts of a layer's tokens."""

    def get_replay_topk(
        self,
        scores: Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Chooses the experts of every token.

        Args:
            scores: [tokens, experts], by which the router would choose.
            topk: experts of a token.
            num_groups: groups of experts, where the router chooses groups first.
            group_topk: groups of a token.
            default_compute_topk: the router's own choice; takes the arguments before it.

        Returns:
            The chosen scores and the ids of the experts, [tokens, topk] each.
        """
        ...


def attach(router: Any, choice: ExpertChoice) -> None:
    """Makes ``choice`` choose the experts of a router's tokens.

    Raises:
        PatchError: megatron-core is not a version that this was written for.
    """
    require_release("megatron-core")
    require_signature(RouterReplay.get_replay_topk, _SIGNATURE)
    if not hasattr(router, "router_replay"):
        raise PatchError(
            f"{type(router).__module__}.{type(router).__qualname__} asks no router_replay: set learner.replay_routing = "
            "false, or port learner/megatron/patches/router_replay.py to it"
        )
    router.router_replay = choice
