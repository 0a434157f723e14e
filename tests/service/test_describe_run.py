"""DescribeRun over TCP: who may ask, what a fleet hears, and that it is told of the end of the run."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import grpc.aio

from learner.config import QueueConfig
from learner.queue import LearnerQueue
from leeway.v1 import rollout_pb2 as pb
from rollout.client import SubmitClient
from tests.service.fleet import RUN, TOKENS, Fleet, eventually, refusal, tokens, valid_group, write_identities
from tests.service.queueing import begun

LIMITS = {"vocab_size": 100, "group_size": [2, 3], "max_response_context_tokens": 20, "max_response_tokens": 8}


async def test_a_fleet_with_any_role_hears_the_limits_and_the_gateway_keeps_to_them(start_gateway):
    gateway = await start_gateway(limits=LIMITS, wanted={"temperature": 0.5}, connections={"calls_per_s": 5.0})
    roles: dict[str, Any] = {"alpha": ["submit"], "beta": ["operate"], "gamma": []}
    hashed = {name: hashlib.sha256((TOKENS | {"gamma": "gamma-secret"})[name].encode()).hexdigest() for name in roles}
    write_identities(
        gateway.identities_file, {name: {"tokens": [hashed[name]], "roles": roles[name]} for name in roles}
    )
    async with gateway.connect(TOKENS["beta"]) as operator:
        run = await eventually(lambda: described(operator), lambda run: run is not None)
    assert run is not None
    assert (run.run, run.vocab_size, run.min_group_size, run.max_group_size) == ("test", 100, 2, 3)
    assert (run.max_response_context_tokens, run.wanted.temperature, run.finished) == (20, 0.5, False)
    async with SubmitClient(gateway.address, TOKENS["alpha"]) as client:
        assert await client.describe_run() == run
        most = valid_group(length=run.max_response_tokens)
        long = valid_group(length=run.max_response_tokens + 1)
        unknown = valid_group(prompt_tokens=tokens([run.vocab_size]))
        assert [(await client.submit(group)).reason for group in (most, long, unknown)] == [
            "", "tokens_too_long", "token_out_of_vocabulary"
        ]  # fmt: skip
    for token, code in (("gamma-secret", "PERMISSION_DENIED"), ("other", "UNAUTHENTICATED")):
        async with gateway.connect(token) as fleet:
            error = await refusal(lambda fleet=fleet: ask(fleet))
            assert error.code().name == code
    async with gateway.connect(TOKENS["alpha"]) as fleet:
        error = await refusal(lambda: eventually(lambda: ask(fleet), lambda _: False))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # limited like the other calls
        assert "retry-after-ms" in [key for key, _ in error.trailing_metadata() or ()]


async def test_a_finished_run_says_so(start_gateway, redis_server):
    gateway = await start_gateway()
    learner = begun(lambda: LearnerQueue.open(QueueConfig(url=redis_server.url, run=RUN)), versions=())
    learner.end()
    learner.close()
    async with SubmitClient(gateway.address, TOKENS["alpha"]) as client:
        run = await eventually(client.describe_run, lambda run: run.finished)
        assert (await client.lease(1)).groups == 0
    assert run.contract_revision >= 2


async def ask(fleet: Fleet) -> pb.DescribeRunResponse:
    return await fleet.stub.DescribeRun(pb.DescribeRunRequest(), metadata=fleet.metadata, timeout=30)


async def described(fleet: Fleet) -> pb.DescribeRunResponse | None:
    """Asks; None while the gateway has not read the new roles yet."""
    try:
        return await ask(fleet)
    except grpc.aio.AioRpcError:
        return None
