"""One trace from the fleet's SDK through a real gateway and a real Redis to the learner, as a collector receives it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from learner.config import QueueConfig
from learner.intake.batch_source import TakenBatch
from learner.queue import LearnerQueue
from learner.telemetry.tracing import LearnerTracing
from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from rollout.telemetry.tracing import WorkerTracing
from runtime import traces
from runtime.endpoint_config import TraceConfig
from runtime.trace_context import TRACEPARENT, SpanContext
from tests.service.collector import Collector
from tests.service.fleet import RUN, TOKENS, until, valid_group

DIGEST = "ab" * 32


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector.open() as made:
        yield made


def tracer(collector: Collector, process: str, sample: float = 1.0):
    made = traces.start(TraceConfig(endpoint=collector.endpoint, sample=sample), process, RUN)
    assert made is not None
    return made


async def submitted(address: str, groups: list[pb.Group], tracing: WorkerTracing) -> list[pb.Ack]:
    """Submits groups through a client that traces them; returns their acks."""
    now = time.time_ns()
    tracing.generated(groups, now - 3_000_000, now - 1_000_000, now)
    async with SubmitClient(address, TOKENS["alpha"]) as client:
        client.follow(tracing)
        acks = list(await asyncio.gather(*map(client.submit, groups)))
    for ack in acks:
        tracing.acknowledged(ack)
    return acks


def trained(url: str, tracing: LearnerTracing, count: int) -> None:
    """Takes, trains, commits and publishes the groups of the queue as a learner does."""
    learner = LearnerQueue.open(QueueConfig(url=url, run=RUN))
    learner.begin(0, [])
    taken = learner.take(count, 0, 8)
    refs = [one.ref for one in taken]
    tracing.trained(1, TakenBatch([one.group for one in taken], refs, {0: 1}, [ref.fleet for ref in refs]), 0.01)
    learner.commit(1, refs)
    tracing.committed(1, refs, 0.01)
    tracing.published(pb.Policy(version=1, step=1, epoch=learner.epoch, manifest_sha256=DIGEST), 0.01)
    learner.close()


async def test_one_trace_from_the_prompt_to_the_version(start_gateway, redis_server, collector):
    gateway = await start_gateway(traces={"endpoint": collector.endpoint, "sample": 1.0})
    fleet, learner = WorkerTracing(tracer(collector, "worker-0")), LearnerTracing(tracer(collector, "learner"))
    groups = [valid_group(), valid_group()]
    acks = await submitted(gateway.address, groups, fleet)
    assert [ack.outcome for ack in acks] == [pb.OUTCOME_ACCEPTED] * 2
    await asyncio.to_thread(trained, redis_server.url, learner, 2)
    fleet.announced(pb.Policy(version=1, manifest_sha256=DIGEST))
    fleet.refitted(0, 1, 0.01)
    fleet.close()
    learner.close()
    for group in groups:
        trace = group.group_id.replace("-", "")
        await until(lambda trace=trace: {"append", "publish"} <= {s.name for s in collector.spans if s.trace == trace})
        spans = {span.name: span for span in collector.spans if span.trace == trace}
        by_service = {name: span.service.removeprefix("leeway-") for name, span in spans.items()}
        assert by_service == {
            **dict.fromkeys(("group", "generate", "reward", "submit"), "worker"),
            **dict.fromkeys(("validate", "append"), "gateway"),
            **dict.fromkeys(("queue", "train", "commit", "publish"), "learner"),
        }
        for name, above in {"generate": "group", "submit": "group", "append": "submit", "train": "submit"}.items():
            assert spans[name].parent == spans[above].span, name
        assert spans["group"].parent == ""
        assert spans["queue"].end == spans["train"].start
        assert spans["validate"].attributes["leeway.fleet"] == "alpha"
        assert spans["append"].attributes["leeway.outcome"] == "OUTCOME_ACCEPTED"
        assert spans["publish"].attributes["leeway.version"] == 1
        assert spans["publish"].links == [(DIGEST[:32], DIGEST[32:48])]
    (version,), (refit,) = collector.named("version"), collector.named("refit")
    assert (version.trace, version.span, version.attributes["leeway.followed_groups"]) == (
        DIGEST[:32],
        DIGEST[32:48],
        2,
    )
    assert (refit.trace, refit.parent) == (version.trace, version.span)


async def test_a_gateway_follows_what_its_own_share_says_and_nothing_that_is_not_marked(start_gateway, collector):
    few = tracer(collector, "worker-0", 1e-9)
    gateway = await start_gateway(traces={"endpoint": collector.endpoint, "sample": 1e-9})
    everything = WorkerTracing(tracer(collector, "worker-1"))
    acks = await submitted(gateway.address, [valid_group() for _ in range(20)], everything)
    acks += await submitted(gateway.address, [valid_group() for _ in range(20)], WorkerTracing(few))
    strange = valid_group(metadata={TRACEPARENT: "00-nonsense"})
    acks += await submitted(gateway.address, [strange], WorkerTracing())
    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
    everything.close()
    gateway.child.terminate()
    assert await asyncio.to_thread(gateway.child.wait, time.monotonic() + 60)  # it has sent what it had
    assert {span.name for span in collector.spans} == {"group", "generate", "reward", "submit"}
    assert len(collector.named("group")) == 20


async def test_a_rejected_group_is_followed_to_the_reason(start_gateway, collector):
    gateway = await start_gateway(traces={"endpoint": collector.endpoint, "sample": 1.0})
    fleet = WorkerTracing(tracer(collector, "worker-0"))
    group = valid_group(version=77)
    (ack,) = await submitted(gateway.address, [group], fleet)
    assert ack.outcome == pb.OUTCOME_REJECTED
    fleet.close()
    await until(lambda: collector.named("validate"))
    assert collector.named("validate")[0].attributes["leeway.reason"] == "unknown_version"
    assert collector.named("append") == []
    assert collector.named("group")[0].attributes["leeway.outcome"] == "OUTCOME_REJECTED"


async def test_metadata_that_is_full_stays_as_it_is(start_gateway, collector):
    gateway = await start_gateway(traces={"endpoint": collector.endpoint, "sample": 1.0})
    fleet = WorkerTracing(tracer(collector, "worker-0"))
    many = valid_group(metadata={f"key-{n}": "x" for n in range(32)})
    large = valid_group(metadata={"key": "x" * 4090})
    acks = await submitted(gateway.address, [many, large], fleet)
    assert [ack.outcome for ack in acks] == [pb.OUTCOME_ACCEPTED] * 2
    assert TRACEPARENT not in many.metadata
    assert TRACEPARENT not in large.metadata
    fleet.close()


@pytest.mark.timeout(120)
async def test_a_collector_that_is_not_there_stops_nothing(start_gateway):
    nowhere = "http://127.0.0.1:9"
    gateway = await start_gateway(traces={"endpoint": nowhere, "sample": 1.0})
    made = traces.start(TraceConfig(endpoint=nowhere, sample=1.0), "worker-0", RUN)
    fleet = WorkerTracing(made)
    acks = await submitted(gateway.address, [valid_group() for _ in range(200)], fleet)
    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
    assert made is not None
    for _ in range(6000):  # more than the queue of spans holds
        made.child("train", SpanContext("1" * 32, "2" * 16)).end()
    fleet.close()
