"""The mixture layers of a model, read from its config.json: what records of routing are checked against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learner.config.architectures import expert_count, layers_with_experts
from runtime.routing_record import RoutingShape

# Why a setting does not fit a model.
DENSE_REPLAY = (
    "learner.replay_routing = true: the model is dense and has no experts: set it to false, or train a mixture"
)
_RETURN = "rollout.engine.return_routed_experts = true"
DENSE_RETURN = f"{_RETURN}: the model is dense and has no experts: set it to false, or use a mixture"


def routing_shape(config: Mapping[str, Any]) -> RoutingShape | None:
    """Returns which experts a model's tokens can be sent to; None for a dense model.

    Args:
        config: content of the model's config.json, which has been checked.
    """
    layers = tuple(number for number, sparse in enumerate(layers_with_experts(config)) if sparse)
    if not layers:
        return None
    return RoutingShape(layers=layers, top_k=config["num_experts_per_tok"], experts=expert_count(config))
