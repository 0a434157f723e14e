"""The public SDK: submits groups to a gateway, asks for leases, follows the published policy.

Needs nothing but gRPC and pydantic: `pip install "leeway[client]"`. A whole fleet:

    import asyncio

    from leeway.v1 import rollout_pb2
    from rollout.client import LeaseKeeper, SubmitClient, encode_ids, new_group_id

    async def fleet(address, token, engine):
        async with SubmitClient(address, token) as client:
            following = asyncio.create_task(follow(client, engine))
            keeper = LeaseKeeper(client, lambda: engine.version)       # renews leases, however long the groups take
            keeping = asyncio.create_task(keeper.run())
            run = await client.describe_run()                          # vocabulary, group size, limits
            while not client.finished:
                lease = await client.lease(groups=4, running_version=engine.version)
                if not lease.groups:                                   # the learner has enough for now
                    await asyncio.sleep(lease.retry_after_ms / 1000)
                    continue
                keeper.hold(lease)
                for _ in range(lease.groups):
                    await client.submit(await make_group(engine, run), lease.lease_id)  # ACCEPTED, DUPLICATE or REJECTED
                keeper.release(lease.lease_id)
            keeping.cancel()
            await following

    async def follow(client, engine):
        async for policy in client.watch_policy():                     # ends when the run has finished
            await engine.load(policy)                                  # policy.uri: weights and their manifest

    async def make_group(engine, run):
        name, prompt = engine.prompt()
        responses = []
        for _ in range(max(2, run.min_group_size)):
            ids, version, reward = await engine.sample(prompt)         # yours; it waits for its first weights
            span = rollout_pb2.Span(version=version, start=0, end=len(ids))
            responses.append(
                rollout_pb2.Response(
                    tokens=encode_ids(ids), reward=reward, spans=[span], finish_reason=rollout_pb2.FINISH_REASON_STOP
                )
            )
        return rollout_pb2.Group(
            group_id=new_group_id(), prompt_id=name, prompt_tokens=encode_ids(prompt), task="mine", temperature=1.0,
            responses=responses,
        )

It ends when the run has finished: all its steps are made, and ``submit`` returns a RETRY with reason "run_finished". Programs
without an event loop take a BlockingSubmitClient (rollout/client/blocking.py).

Programs in other languages need only proto/leeway/v1/rollout.proto, which is the specification. Warnings go through the
standard `logging` module, to loggers below "rollout.client".
"""

from rollout.client.blocking import BlockingSubmitClient
from rollout.client.client import SubmitClient
from rollout.client.credentials import Credentials
from rollout.client.errors import AuthError, ClientClosedError
from rollout.client.lease_keeper import LeaseKeeper
from rollout.client.wire import decode_ids, encode_ids
from rollout.config import ClientTlsConfig
from runtime.group_ids import new_group_id

__all__ = [
    "AuthError",
    "BlockingSubmitClient",
    "ClientClosedError",
    "ClientTlsConfig",
    "Credentials",
    "LeaseKeeper",
    "SubmitClient",
    "decode_ids",
    "encode_ids",
    "new_group_id",
]
