"""What a run file's model and settings mean for records of routing: whether there are any, and how large they are."""

from __future__ import annotations

from pathlib import Path

from learner.config.model_config import ModelError, read_config
from learner.config.routing import DENSE_REPLAY, DENSE_RETURN, routing_shape
from runtime.routing_record import RoutingShape
from runtime.settings import SettingsError


def routing_of(model: Path | None, replays: bool, returns: bool) -> RoutingShape | None:
    """Returns the mixture layers of a run's model; None for a dense one, and for one that cannot be read, as others report.

    Args:
        model: its directory; None for the demo's model.
        replays: learner.replay_routing.
        returns: rollout.engine.return_routed_experts.

    Raises:
        SettingsError: the model is dense, and its routing is to be replayed or returned.
    """
    try:
        shape = None if model is None else routing_shape(read_config(model))
    except ModelError:
        return None
    if shape is None and (replays or returns):
        raise SettingsError(DENSE_REPLAY if replays else DENSE_RETURN)
    return shape


def require_records(replays: bool, returns: bool, workers: int) -> None:
    """Checks that the workers of this machine send the records that the learner replays.

    Args:
        replays: learner.replay_routing.
        returns: rollout.engine.return_routed_experts.
        workers: rollout.workers.

    Raises:
        SettingsError: they would not, and nothing would be replayed.
    """
    if replays and not returns and workers:
        raise SettingsError(
            "learner.replay_routing = true beside rollout.engine.return_routed_experts = false: this machine's workers would "
            "not say which experts tokens were sent to, and the learner would have nothing to replay: set both to true or "
            "both to false, or rollout.workers = 0 where fleets elsewhere generate"
        )


def require_room(shape: RoutingShape, responses: int, tokens: int, most: int) -> None:
    """Checks that a group of the longest responses fits into a message with its records of routing.

    Args:
        shape: of a token's record.
        responses: of a group.
        tokens: most generated tokens of a response.
        most: bytes of a message.

    Raises:
        SettingsError: it does not.
    """
    size = responses * tokens * shape.token_bytes
    if size > most:
        raise SettingsError(
            f"rollout.engine.return_routed_experts = true: in a group of {responses} responses of {tokens} tokens the "
            f"experts take {size} bytes, without those of the prompt: raise gateway.limits.max_message_bytes = {most}, or "
            "lower rollout.sampling.max_new_tokens or responses"
        )
