"""Groups with segments, with unscored responses and without contrast, from the wire to the ledger."""

from __future__ import annotations

import dataclasses

from learner.queue import recount
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import tokens, valid_group
from tests.service.queueing import append, begun, feed, group_of_kind, ledger

_REASONS = 64


async def test_each_trained_group_is_counted_as_what_it_is(config, gateway_queue, open_learner):
    groups = [group_of_kind(kind) for kind in ("", "without_contrast", "unscored", "unscored", "")]
    groups[3].responses[0].unscored = ""  # one that was judged is too few as well, but has a reward
    await feed(gateway_queue, groups)
    learner = begun(open_learner)
    taken = learner.take(5, 0, 8)
    found = ledger(config)
    assert (found.in_flight, found.without_contrast, found.unscored) == (5, 0, 0)
    assert dict(found.unscored_responses_by_reason) == {"judge": 3}
    learner.commit(1, [one.ref for one in taken[:4]])
    learner.quarantine(2, [(taken[4].ref, taken[4].group)], "non-finite loss (nan)")
    found = ledger(config)
    assert (found.trained, found.without_contrast, found.unscored) == (4, 1, 2)
    counts = {(bucket.measure, bucket.outcome): bucket.count for bucket in found.histogram}
    assert counts[pb.MEASURE_LENGTH, "trained"] == 4
    assert counts[pb.MEASURE_REWARD, "trained"] == 3  # no reward, no bucket
    assert recount(config, []).discrepancies == []


async def test_what_is_not_trained_is_in_no_subset_of_what_is(config, gateway_queue, open_learner):
    await feed(gateway_queue, [group_of_kind("without_contrast"), group_of_kind("unscored")])
    learner = begun(open_learner, versions=(0, 9))
    assert learner.take(2, 9, 1) == []
    found = ledger(config)
    assert (found.expired, found.trained, found.without_contrast, found.unscored) == (2, 0, 0, 0)


async def test_a_fleet_cannot_fill_the_memory_with_reasons(config, gateway_queue):
    groups = [group_of_kind("unscored", reason=f"reason_{number}") for number in range(_REASONS + 3)]
    await feed(gateway_queue, groups)
    await feed(gateway_queue, [group_of_kind("unscored", reason="reason_1"), group_of_kind("unscored", reason="other")])
    await feed(gateway_queue, groups[:1])  # a duplicate
    found = ledger(config).unscored_responses_by_reason
    assert len(found) == _REASONS + 1
    assert (found["reason_0"], found["reason_1"], found["other"]) == (2, 4, 2 * 3 + 2)
    await feed(gateway_queue, [group_of_kind("unscored", reason="new")], fleet="beta")
    assert dict(ledger(config, "beta").unscored_responses_by_reason) == {"new": 2}


async def test_many_reasons_of_one_group_are_counted_each(config, gateway_queue):
    group = dataclasses.replace(append(valid_group()), unscored=(("crash", 3), ("limit", 12)))
    await gateway_queue.flush([group], {}, [])
    assert dict(ledger(config).unscored_responses_by_reason) == {"crash": 3, "limit": 12}


async def test_segments_and_unscored_responses_pass_a_gateway(start_gateway, redis_server):
    gateway = await start_gateway(limits={"vocab_size": 100, "max_response_context_tokens": 20})
    span = pb.Span(version=0, start=0, end=2)
    segments = [pb.Segment(context_tokens=tokens([1] * size), tokens=tokens([2] * 3), spans=[span]) for size in (2, 12)]
    good = valid_group()
    good.responses[0].CopyFrom(pb.Response(segments=segments, reward=1.0))
    good.responses.add().CopyFrom(pb.Response(unscored="reward_timeout", reward=float("nan")))
    long = valid_group()
    long.responses[1].CopyFrom(good.responses[0])
    long.responses[1].segments[0].context_tokens += tokens([1])
    stale = valid_group()
    stale.responses[1].CopyFrom(good.responses[0])
    stale.responses[1].segments[1].spans[0].version = 7
    async with gateway.connect() as fleet:
        acks = await fleet.submit([good, long, stale, valid_group(sampling=pb.Sampling(top_k=3))])
        found = await fleet.ledger()
    assert [ack.reason for ack in acks] == ["", "response_too_long", "unknown_version", "sampling_truncated"]
    assert [ack.field for ack in acks[1:3]] == ["responses[1].segments", "responses[1].segments[1].spans[0].version"]
    assert "21 tokens in 2 segments" in acks[1].value
    assert "at most 20 (max_response_context_tokens" in acks[1].value
    assert (found.received, found.accepted, found.rejected) == (4, 1, 3)
    assert dict(found.unscored_responses_by_reason) == {"reward_timeout": 1}
