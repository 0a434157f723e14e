"""A whole fleet on the SDK, without SGLang: `python fleet.py GATEWAY TOKEN`. Put your own engine and judge into `sample`.

pip install "leeway[client]"
"""

from __future__ import annotations

import asyncio
import random
import sys

from leeway.v1 import rollout_pb2 as pb
from rollout.client import LeaseKeeper, SubmitClient, encode_ids, new_group_id


class Engine:
    """Stands for your engine: it "generates" random tokens. A real one loads the weights at ``policy.uri``.

    Attributes:
        version: the version of the weights that it runs; None before the first.
    """

    def __init__(self) -> None:
        self.version: int | None = None
        self.loaded = asyncio.Event()

    def load(self, policy: pb.Policy) -> None:
        """Switches to the weights of a version."""
        self.version = policy.version
        self.loaded.set()

    def sample(self, prompt: list[int], run: pb.DescribeRunResponse) -> pb.Response:
        """Generates one response and scores it."""
        assert self.version is not None
        tokens = [random.randrange(run.vocab_size) for _ in range(len(prompt) + 5)]
        return pb.Response(
            tokens=encode_ids(tokens),
            reward=min(max(float(tokens[0] < tokens[1]), run.min_reward), run.max_reward),
            finish_reason=pb.FINISH_REASON_STOP,
            spans=[pb.Span(version=self.version, start=0, end=len(tokens))],
        )


async def watch(client: SubmitClient, engine: Engine) -> None:
    """Loads every version that is published, until the run has finished."""
    async for policy in client.watch_policy():
        engine.load(policy)


async def produce(client: SubmitClient, engine: Engine) -> None:
    """Asks for leases and fills them."""
    run = await client.describe_run()
    keeper = LeaseKeeper(client, lambda: engine.version)
    keeping = asyncio.create_task(keeper.run())
    await engine.loaded.wait()
    while not client.finished:
        lease = await client.lease(groups=4, running_version=engine.version)
        if not lease.groups:
            await asyncio.sleep(lease.retry_after_ms / 1000)
            continue
        keeper.hold(lease)  # renewed, however long the groups take
        groups = [make_group(engine, run) for _ in range(lease.groups)]
        acks = await asyncio.gather(*(client.submit(group, lease.lease_id) for group in groups))
        keeper.release(lease.lease_id)
        for ack in acks:
            if ack.outcome == pb.OUTCOME_REJECTED:
                sys.stderr.write(f"rejected: {ack.reason} {ack.field} {ack.value}\n")
    keeping.cancel()


def make_group(engine: Engine, run: pb.DescribeRunResponse) -> pb.Group:
    """Makes one group: a prompt, its responses, their rewards."""
    prompt = [random.randrange(run.vocab_size) for _ in range(4)]
    responses = [engine.sample(prompt, run) for _ in range(max(2, run.min_group_size))]
    return pb.Group(
        group_id=new_group_id(),
        prompt_id=f"random:{prompt}",
        prompt_tokens=encode_ids(prompt),
        task="random",
        responses=responses,
        temperature=1.0,
    )


async def main(address: str, token: str) -> None:
    """Runs the fleet until the run has finished."""
    engine = Engine()
    async with SubmitClient(address, token, worker="example") as client:
        producing = asyncio.create_task(produce(client, engine))
        await watch(client, engine)
        producing.cancel()
        await asyncio.gather(producing, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
