"""The public SDK: submits groups to a gateway, asks for leases, follows the published policy.

Needs nothing but gRPC and pydantic: `pip install "leeway[client]"`. A whole fleet in a few lines:

    from leeway.v1 import rollout_pb2
    from rollout.client import SubmitClient, encode_ids, new_group_id

    async with SubmitClient("gateway:50051", token) as client:
        async for policy in client.watch_policy():
            engine.load(policy.uri)                                   # weights, verified by the manifest there
            lease = await client.lease(groups=8)
            for prompt in my_prompts(lease.groups):
                tokens, rewards = engine.sample(prompt, responses=8)  # yours
                group = rollout_pb2.Group(
                    group_id=new_group_id(), prompt_id=prompt.name, prompt_tokens=encode_ids(prompt.ids), task="mine",
                    temperature=1.0,
                    responses=[
                        rollout_pb2.Response(
                            tokens=encode_ids(ids), reward=reward, finish_reason=rollout_pb2.FINISH_REASON_STOP,
                            spans=[rollout_pb2.Span(version=policy.version, start=0, end=len(ids))],
                        )
                        for ids, reward in zip(tokens, rewards)
                    ],
                )
                ack = await client.submit(group, lease.lease_id)      # ACCEPTED, DUPLICATE or REJECTED

The loop ends when the run has finished: all its steps are made, and ``submit`` returns a RETRY with reason "run_finished".
Where groups take longer than a lease holds (``lease.expires_in_ms``), a LeaseKeeper renews the leases meanwhile.

Programs in other languages need only proto/leeway/v1/rollout.proto, which is the specification. Warnings go through the
standard `logging` module, to loggers below "rollout.client".
"""

from rollout.client.client import SubmitClient
from rollout.client.endpoints import Credentials
from rollout.client.errors import AuthError
from rollout.client.lease_keeper import LeaseKeeper
from rollout.client.wire import decode_ids, encode_ids
from rollout.config import ClientTlsConfig
from runtime.group_ids import new_group_id

__all__ = [
    "AuthError",
    "ClientTlsConfig",
    "Credentials",
    "LeaseKeeper",
    "SubmitClient",
    "decode_ids",
    "encode_ids",
    "new_group_id",
]
