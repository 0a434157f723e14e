"""A step's groups become statistics, sequences, and the packed part of one data rank."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from learner.batch.contrast import clear_tokens
from learner.batch.packing import Layout
from learner.batch.types import Batch, MicroBatch
from learner.batch.weighting import DEFAULT, Weighting
from learner.intake.batch_source import TakenBatch
from learner.intake.preparation import Preparation
from leeway.v1 import rollout_pb2 as pb
from runtime.routing_record import RoutingShape


def taken(*rewards: float) -> TakenBatch:
    """One group whose prompt is [1, 2], and whose responses are [3, 4, 5], [3, 4, 5], ..."""
    prompt, tokens = np.array([1, 2], "<i4").tobytes(), np.array([3, 4, 5], "<i4").tobytes()
    spans = [pb.Span(version=7, start=0, end=3)]
    responses = [pb.Response(tokens=tokens, reward=reward, spans=spans) for reward in rewards]
    group = pb.Group(group_id="g", prompt_tokens=prompt, responses=responses, temperature=1.0)
    return TakenBatch([group], [], {7: 2}, ["oslo"])


@pytest.mark.parametrize("rank", [0, 1])
def test_the_batch_is_this_data_ranks_part_and_the_rest_is_the_steps(rank: int):
    made = Preparation(DEFAULT, Layout(data_ranks=2), 4, data_rank=rank).prepare(taken(0.0, 1.0))
    assert len(made.sequences) == 2
    assert made.groups.staleness_max == 2
    assert made.batch is not None
    assert (made.batch.sequences, made.batch.tokens) == (2, 10)
    (micro_batch,) = made.batch.micro_batches
    assert micro_batch.tokens.tolist() == [[1, 2, 3, 4, 5]]
    assert micro_batch.advantage.tolist() == [(-0.5, 0.5)[made.batch.members[0][0]]]
    assert made.seconds > 0


def test_experts_of_responses_are_packed_with_them_where_they_are_replayed():
    shape, batch = RoutingShape(layers=(1,), top_k=1, experts=4), taken(0.0, 1.0)
    record = pb.RoutedExperts(layers=[1], top_k=1, experts=4, start=1, ids=bytes([3, 0, 2]))
    batch.groups[0].responses[1].routed_experts.CopyFrom(record)
    made = Preparation(DEFAULT, Layout(), 4, replayed=shape).prepare(batch)
    assert made.records == {"replayed": 1, "absent": 1, "foreign": 0}
    assert made.batch is not None
    (micro_batch,) = made.batch.micro_batches
    assert micro_batch.routed is not None
    assert micro_batch.routed.flatten().tolist() == [-1] * 5 + [-1, 3, 0, 2, -1]
    assert [one.routed for one in made.sequences] == [None, None]  # they are of all ranks, and kept until the step ends
    plain = Preparation(DEFAULT, Layout(), 4).prepare(batch)
    assert plain.records == {}
    assert plain.batch is not None
    assert plain.batch.micro_batches[0].routed is None


def test_groups_without_contrast_leave_no_batch():
    made = Preparation(DEFAULT, Layout(), 4).prepare(taken(1.0, 1.0))
    assert (made.sequences, made.batch) == ([], None)


def test_groups_that_others_were_taken_for_are_in_the_statistics_and_in_no_denominator():
    """Two groups count, the third does not: P is 2, and with the mean over the step's tokens there are 12 of them, not 18."""
    mixed, right = taken(0.0, 1.0).groups[0], taken(1.0, 1.0).groups[0]
    clear_tokens(right)
    whole = TakenBatch([mixed, mixed, right], [], {7: 2}, ["oslo"] * 3, uncounted=1)
    made = Preparation(DEFAULT, Layout(), 4).prepare(whole)
    assert [sequence.weight for sequence in made.sequences] == [1 / 4] * 4
    assert (made.groups.reward, made.groups.informative, made.groups.tokens) == (4 / 6, 2 / 3, 18)
    by_token = Preparation(Weighting(mean="batch"), Layout(), 4).prepare(whole)
    assert [sequence.weight for sequence in by_token.sequences] == [1 / 12] * 4
    assert Preparation(Weighting(keep="all"), Layout(), 4).prepare(whole).sequences[-1].group == 1


def test_for_a_cuda_device_every_tensor_of_the_batch_is_put_into_page_locked_memory(monkeypatch: pytest.MonkeyPatch):
    locked: list[torch.Tensor] = []

    def pin(self: torch.Tensor) -> torch.Tensor:
        locked.append(self.clone())
        return locked[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    assert Preparation(DEFAULT, Layout(), 4).prepare(taken(0.0, 1.0)).batch is not None
    assert locked == []
    batch = Preparation(DEFAULT, Layout(), 4, pinned=True).prepare(taken(0.0, 1.0)).batch
    assert isinstance(batch, Batch)
    (micro_batch,) = batch.micro_batches
    tensors = [
        value for field in dataclasses.fields(MicroBatch) if torch.is_tensor(value := getattr(micro_batch, field.name))
    ]
    assert tensors
    assert {id(tensor) for tensor in tensors} == {id(tensor) for tensor in locked}
