"""Reads the experts that engines chose from the responses of groups, as tensors beside the token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch

from leeway.v1 import rollout_pb2 as pb
from runtime.routing_record import RoutingShape

# What becomes of a sequence's record: its experts are replayed; there is none; it is of another model, and not used.
Record = Literal["replayed", "absent", "foreign"]
RECORDS: tuple[Record, ...] = get_args(Record)

_ID_BYTES = 4  # of a token


def routed_experts(context: int, part: pb.Response | pb.Segment, shape: RoutingShape) -> torch.Tensor:
    """Returns the experts of a sequence's tokens, [n, layers, k] int16; -1 for tokens without a record.

    Args:
        context: tokens before those of ``part``.
        part: a response of one sequence, or a segment.
        shape: the model's mixture layers. A record of other ones is not used.
    """
    length = context + len(part.tokens) // _ID_BYTES
    routed = torch.full((length, len(shape.layers), shape.top_k), -1, dtype=torch.int16)
    if record_of(part, shape) == "replayed":
        record = part.routed_experts
        ids = shape.decode(record.ids)
        routed[record.start : record.start + len(ids)] = torch.from_numpy(ids.astype("int16"))
    return routed


def record_of(part: pb.Response | pb.Segment, shape: RoutingShape) -> Record:
    """Returns what becomes of the record of a sequence in the training of a model with these mixture layers."""
    if not part.HasField("routed_experts"):
        return "absent"
    record = part.routed_experts
    same = (tuple(record.layers), record.top_k, record.experts) == (shape.layers, shape.top_k, shape.experts)
    return "replayed" if same else "foreign"


def count_records(groups: Iterable[pb.Group], shape: RoutingShape) -> Mapping[Record, int]:
    """Counts the sequences of the groups' scored responses by what becomes of their records."""
    counts = dict.fromkeys(RECORDS, 0)
    for group in groups:
        for response in group.responses:
            if not response.unscored:
                for part in response.segments or [response]:
                    counts[record_of(part, shape)] += 1
    return counts
