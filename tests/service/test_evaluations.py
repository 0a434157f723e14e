"""ReportEvaluation over TCP: who may report, what is kept of it, and that an evaluated version stays on disk."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import grpc
import grpc.aio

from learner.config import QueueConfig
from learner.queue import LearnerQueue
from learner.queue.connect import connect
from learner.queue.evaluation_registry import read_best, read_evaluations
from learner.queue.keys import Keys
from learner.queue.versions_in_use import read_versions_in_use
from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from tests.service.conftest import publish
from tests.service.fleet import RUN, TOKENS, eventually, refusal, write_identities
from tests.service.test_probes import status_address
from tests.tools.scrape import Scrape

METRIC = "sort:greedy:mean@1"


def evaluation(version: int, mean: float) -> pb.Evaluation:
    metrics = {"mean@1": pb.Interval(value=mean, low=mean - 0.1, high=mean + 0.1)}
    return pb.Evaluation(version=version, name="sort", sampling="greedy", prompts=4, samples=1, metrics=metrics)


async def test_an_evaluator_reports_and_what_it_evaluates_is_kept(start_gateway, redis_server):
    gateway = await start_gateway(status={"listen": "127.0.0.1:0"})
    config = QueueConfig(url=redis_server.url, run=RUN)
    publish(redis_server.url, 1, 2, 3, 4, 5)
    roles: dict[str, Any] = {"alpha": ["submit"], "beta": ["evaluate"]}
    hashed = {name: hashlib.sha256(TOKENS[name].encode()).hexdigest() for name in roles}
    write_identities(
        gateway.identities_file, {name: {"tokens": [hashed[name]], "roles": roles[name]} for name in roles}
    )
    async with SubmitClient(gateway.address, TOKENS["beta"], "evaluator") as evaluator:
        policy = await anext(aiter(evaluator.watch_policy()))
        assert policy.version <= 5
        await evaluator.report_evaluation(evaluation(1, 0.5))
        await evaluator.report_evaluation(evaluation(2, 0.75))
        await evaluator.report_evaluation(evaluation(3, 0.75))
        await evaluator.report_evaluation(evaluation(4, 0.25))
        await evaluator.report_evaluation(evaluation(4, 0.3))  # takes the place of the one before
        error = await refusal(lambda: evaluator.report_evaluation(evaluation(99, 0.5)))
        assert (error.code(), "version = 99" in str(error.details())) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        await evaluator.report_fetching(1, 1)
        async with gateway.connect(TOKENS["beta"]) as fleet:
            denied = await refusal(
                lambda: fleet.stub.Lease(pb.LeaseRequest(groups=1), metadata=fleet.metadata, timeout=30)
            )
            assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
    async with gateway.connect(TOKENS["alpha"]) as fleet:
        request = pb.ReportEvaluationRequest(evaluation=evaluation(1, 1.0))
        denied = await refusal(lambda: fleet.stub.ReportEvaluation(request, metadata=fleet.metadata, timeout=30))
        assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
    client = connect(config)
    found = [(one.version, one.metrics["mean@1"].value) for one in read_evaluations(client, Keys(RUN))]
    assert found == [(1, 0.5), (2, 0.75), (3, 0.75), (4, 0.3)]
    assert read_best(client, Keys(RUN), METRIC) == 3  # of equals the newest
    learner = LearnerQueue.open(config)
    learner.begin(5, [])
    assert learner.evaluated_versions(METRIC) == {1, 3}
    assert learner.evaluated_versions(None) == {1}
    learner.close()
    in_use = read_versions_in_use(config)
    assert in_use.running == {1: ["beta/evaluator"]}
    assert client.smembers(Keys(RUN).fleets) == set()  # an evaluator is no fleet: it has no ledger and no share
    client.close()
    await eventually(lambda: asyncio.to_thread(shown, status_address(gateway)), lambda values: values == [0.3])


def shown(address: str) -> list[float]:
    """Values of the gauge of evaluations."""
    return [one.value for one in Scrape(address).samples if one.name == "leeway_gateway_evaluation"]
