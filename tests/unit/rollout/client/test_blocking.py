"""The client without asyncio: its calls, several threads, Ctrl-C, and what closing it ends."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import AuthError, BlockingSubmitClient, ClientClosedError, SubmitClient, new_group_id
from runtime.settings import SettingsError
from tests.tools.fleet_peers import TOKEN, ScriptedGateway, until

LIMIT_S = 60.0


def group() -> pb.Group:
    return pb.Group(group_id=new_group_id(), prompt_id="p")


@pytest.fixture
async def gateway() -> AsyncIterator[ScriptedGateway]:
    gateway = await ScriptedGateway().start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def client(gateway: ScriptedGateway) -> AsyncIterator[BlockingSubmitClient]:
    client = await asyncio.to_thread(BlockingSubmitClient, gateway.address, TOKEN, "unit")
    yield client
    await asyncio.to_thread(client.close)


def seen(client: BlockingSubmitClient, wanted: Callable[[pb.Policy | None], bool]) -> None:
    while not wanted(client.newest_policy()):
        client.wait(0.01)


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments), LIMIT_S)


def test_it_has_every_method_of_the_other_client_with_the_same_parameters():
    for name, method in inspect.getmembers(SubmitClient, inspect.isfunction):
        if name.startswith("_") or name == "follow":  # a worker's own tracing
            continue
        mine = inspect.signature(getattr(BlockingSubmitClient, name)).parameters
        assert list(mine) == list(inspect.signature(method).parameters), name


async def test_calls_return_what_the_gateway_says(gateway: ScriptedGateway, client: BlockingSubmitClient):
    lease = await call(client.lease, 3, 5)
    assert (lease.groups, gateway.leases[0].running_version, gateway.leases[0].worker) == (1, 5, "unit")
    ack = await call(client.submit, group(), lease.lease_id)
    assert ack.outcome == pb.OUTCOME_ACCEPTED
    assert gateway.received[0].lease_id == lease.lease_id
    assert (await call(client.describe_run)).vocab_size == 16
    assert (await call(client.get_ledger)).received == 1
    await call(client.report_fetching, 7)
    assert gateway.fetching == [7]
    assert not client.finished
    assert (client.retried, client.unacked, client.reconnected) == (0, 0, 0)


async def test_several_threads_submit_at_once(gateway: ScriptedGateway, client: BlockingSubmitClient):
    together = threading.Barrier(4)

    def one(each: pb.Group) -> pb.Ack:
        together.wait(LIMIT_S)
        return client.submit(each)

    groups = [group() for _ in range(4)]
    acks = await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(one, each) for each in groups)), LIMIT_S)
    assert [ack.group_id for ack in acks] == [each.group_id for each in groups]
    assert gateway.streams == 1


async def test_versions_are_followed_until_the_run_has_finished(gateway: ScriptedGateway, client: BlockingSubmitClient):
    gateway.publish(pb.Policy(version=1))
    assert (await call(client.newest_policy)).version == 1
    watching = client.watch_policy()
    assert (await call(next, watching)).version == 1
    gateway.publish(pb.Policy(version=4))
    assert (await call(next, watching)).version == 4
    await call(seen, client, lambda policy: policy is not None and policy.version == 4)
    gateway.finish()
    assert await call(next, watching, None) is None
    await call(seen, client, lambda policy: policy is None)
    assert client.finished


async def test_a_held_lease_is_renewed_with_the_version_that_runs_and_released(
    gateway: ScriptedGateway, client: BlockingSubmitClient
):
    lease = await call(client.lease, 1, 9)

    def work() -> None:
        with client.holding(lease):
            while not gateway.renewals:
                client.wait(0.01)

    await call(work)
    assert list(gateway.renewals[0].held_lease_ids) == [lease.lease_id]
    assert gateway.renewals[0].running_version == 9
    assert client._inside._keeper.held == []


async def test_a_limit_ends_a_call_that_gets_no_answer(gateway: ScriptedGateway):
    gateway.decide = lambda _: None
    client = await asyncio.to_thread(lambda: BlockingSubmitClient(gateway.address, TOKEN, wait_s=0.2))
    with pytest.raises(TimeoutError):
        await call(client.submit, group())
    await call(client.close)


async def test_closing_ends_what_other_threads_wait_for(gateway: ScriptedGateway, client: BlockingSubmitClient):
    gateway.decide = lambda _: None
    waiting = [
        asyncio.create_task(call(client.submit, group())),
        asyncio.create_task(call(client.newest_policy)),
        asyncio.create_task(call(client.wait, LIMIT_S)),
    ]
    await until(lambda: gateway.unacked == 1 and bool(gateway.known), "submit and watch")
    await call(client.close)
    for one in waiting:
        with pytest.raises(ClientClosedError):
            await one
    with pytest.raises(ClientClosedError, match="the client is closed"):
        await call(client.describe_run)
    await call(client.close)
    assert not [thread for thread in threading.enumerate() if thread.name == "leeway-client"]


async def test_refused_credentials_are_an_error(gateway: ScriptedGateway):
    client = await asyncio.to_thread(BlockingSubmitClient, gateway.address, "another")
    for method in (client.describe_run, client.newest_policy):
        with pytest.raises(AuthError):
            await call(method)
    await call(client.close)


def test_a_wrong_address_leaves_no_thread_behind():
    with pytest.raises(SettingsError, match="host:port"):
        BlockingSubmitClient("nowhere", TOKEN)
    assert not [thread for thread in threading.enumerate() if thread.name == "leeway-client"]


PROGRAM = """
import sys
from leeway.v1 import rollout_pb2
from rollout.client import BlockingSubmitClient, new_group_id
client = BlockingSubmitClient(sys.argv[1], sys.argv[2])
client.describe_run()
{rest}
"""
INTERRUPTED = """
try:
    client.submit(rollout_pb2.Group(group_id=new_group_id(), prompt_id="p"))
except KeyboardInterrupt:
    print("interrupted", client.describe_run().vocab_size, client.unacked)
"""


async def test_ctrl_c_ends_a_call_and_the_client_goes_on(gateway: ScriptedGateway):
    gateway.decide = lambda _: None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM.format(rest=INTERRUPTED), gateway.address, TOKEN,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    await until(lambda: gateway.unacked == 1, "submit")
    process.send_signal(signal.SIGINT)
    output, errors = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert (output.decode().strip(), process.returncode, errors.decode()) == ("interrupted 16 0", 0, "")


async def test_a_program_that_forgets_to_close_ends_quietly(gateway: ScriptedGateway):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM.format(rest=""), gateway.address, TOKEN,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert (output, process.returncode, errors.decode()) == (b"", 0, "")


async def test_closing_closes_the_connections(gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch):
    closed: list[SubmitClient] = []
    close = SubmitClient.close

    async def closing(self: SubmitClient) -> None:
        await close(self)
        closed.append(self)

    monkeypatch.setattr(SubmitClient, "close", closing)
    client = await asyncio.to_thread(BlockingSubmitClient, gateway.address, TOKEN)
    await call(client.describe_run)
    await call(client.close)
    assert closed == [client._inside.client]
