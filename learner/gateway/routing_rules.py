"""The contract's rules for records of routing: which experts an engine has sent the tokens of a sequence to."""

from __future__ import annotations

from learner.gateway.violation import Violation
from leeway.v1 import rollout_pb2
from runtime.routing_record import RoutingShape, first_doubled, first_outside


def examine_routing(
    path: str, record: rollout_pb2.RoutedExperts, tokens: int, shape: RoutingShape | None
) -> Violation | int:
    """Checks the record of one sequence against every rule.

    Args:
        path: of the record.
        record: as received; nothing in it can be trusted.
        tokens: of the sequence, its context included.
        shape: the mixture layers of the run's model; None: it is dense.

    Returns:
        The first violation, or the bytes of a valid record.
    """
    if shape is None:
        text = f"{len(record.layers)} layers"
        return Violation.of("routing_shape", f"{path}.layers", text, "no record: the run's model has no experts")
    if len(record.layers) != len(shape.layers):  # there may be millions, which nobody should compare or show
        allowed = f"{len(shape.layers)} layers, as the run's model has"
        return Violation.of("routing_shape", f"{path}.layers", f"{len(record.layers)} layers", allowed)
    for field, found, allowed in (
        ("layers", tuple(record.layers), shape.layers),
        ("top_k", record.top_k, shape.top_k),
        ("experts", record.experts, shape.experts),
    ):
        if found != allowed:
            return Violation.of("routing_shape", f"{path}.{field}", found, f"{allowed}, as the run's model has")
    data = record.ids  # each access copies it
    if not data or len(data) % shape.token_bytes:
        allowed = f"a multiple of {shape.token_bytes}, the bytes of a token, above 0"
        return Violation.of("routing_length", f"{path}.ids", f"{len(data)} bytes", allowed)
    recorded = len(data) // shape.token_bytes
    if record.start + recorded > tokens:
        text = f"{record.start}, with {recorded} tokens from there on"
        return Violation.of(
            "routing_length", f"{path}.start", text, f"an end of at most {tokens}, the sequence's tokens"
        )
    return _ids(path, data, shape) or len(data)


def _ids(path: str, data: bytes, shape: RoutingShape) -> Violation | None:
    ids = shape.decode(data)
    for reason, place, allowed in (
        ("routing_expert", first_outside(ids, shape.experts), f"0 to {shape.experts - 1}"),
        ("routing_doubled", first_doubled(ids), "different experts of a token in a layer"),
    ):
        if place is not None:
            token, layer, choice = place
            index = (token * len(shape.layers) + layer) * shape.top_k + choice
            text = f"{ids[place]}, of layer {shape.layers[layer]}"
            return Violation.of(reason, f"{path}.ids[{index}]", text, allowed)
    return None
