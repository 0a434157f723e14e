"""The submit SDK's credentials, its several gateways, and the limits it meets."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import ClientTlsConfig, Credentials, SubmitClient, new_group_id
from runtime.settings import SettingsError
from tests.tools.fleet_peers import TOKEN, ScriptedGateway, until


class LimitedGateway(ScriptedGateway):
    """Refuses the first calls, as a gateway does whose limits are reached."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals

    async def _authenticate(self, context: Any) -> None:
        await super()._authenticate(context)
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "calls_per_s = 1", (("retry-after-ms", "50"),))


def group() -> pb.Group:
    return pb.Group(group_id=new_group_id(), prompt_id="p")


@pytest.fixture
async def gateways() -> AsyncIterator[list[ScriptedGateway]]:
    pair = [await ScriptedGateway().start() for _ in range(2)]
    yield pair
    for gateway in pair:
        await gateway.stop()


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """(level, text) of what the SDK logged in this test so far."""
    mine = [record for record in caplog.records if record.name.startswith("rollout.client")]
    return [(record.levelname, record.getMessage()) for record in mine]


def both(gateways: list[ScriptedGateway]) -> str:
    return ", ".join(gateway.address for gateway in gateways)


async def test_a_limit_on_streams_costs_no_group():
    gateway = await LimitedGateway(refusals=3).start()
    async with SubmitClient(gateway.address, TOKEN) as client:
        acks = await asyncio.wait_for(asyncio.gather(*(client.submit(group()) for _ in range(5))), 20)
    await gateway.stop()
    assert {ack.outcome for ack in acks} == {pb.OUTCOME_ACCEPTED}
    assert (gateway.refusals, len(gateway.received)) == (0, 5)


async def test_a_limit_on_calls_is_waited_out_in_silence(caplog: pytest.LogCaptureFixture):
    gateway = await LimitedGateway(refusals=2).start()
    started = asyncio.get_running_loop().time()
    async with SubmitClient(gateway.address, TOKEN) as client:
        assert (await asyncio.wait_for(client.lease(1), 60)).groups == 1
    await gateway.stop()
    assert asyncio.get_running_loop().time() - started >= 0.1  # twice 50 ms, plus jitter
    assert logged(caplog) == []


async def test_a_call_that_fails_is_logged_with_its_code_and_details(
    caplog: pytest.LogCaptureFixture, gateways: list[ScriptedGateway]
):
    gateway = gateways[0]
    async with SubmitClient(gateway.address, TOKEN) as client:
        await gateway.stop()
        waiting = asyncio.create_task(client.lease(1))
        await until(lambda: bool(logged(caplog)), "a warning")
        await gateway.start()
        assert (await asyncio.wait_for(waiting, 60)).groups == 1
    level, text = logged(caplog)[0]
    assert level == "WARNING"
    assert text.startswith("call Lease failed: UNAVAILABLE: ")


async def test_one_gateway_is_used_until_it_fails(gateways: list[ScriptedGateway]):
    async with SubmitClient(both(gateways), TOKEN) as client:
        for _ in range(5):
            assert (await client.submit(group())).outcome == pb.OUTCOME_ACCEPTED
        assert sorted(len(gateway.received) for gateway in gateways) == [0, 5]
        used, other = sorted(gateways, key=lambda gateway: -len(gateway.received))
        await used.stop()
        for _ in range(5):
            assert (await asyncio.wait_for(client.submit(group()), 60)).outcome == pb.OUTCOME_ACCEPTED
        assert (await asyncio.wait_for(client.lease(1), 60)).groups == 1
        assert (len(other.received), len(other.leases)) == (5, 1)
        await used.start()


async def test_what_was_not_acknowledged_goes_to_the_next_gateway(gateways: list[ScriptedGateway]):
    for gateway in gateways:
        gateway.decide = lambda _: None
    async with SubmitClient(both(gateways), TOKEN) as client:
        waiting = asyncio.create_task(client.submit(group()))
        await until(lambda: any(gateway.received for gateway in gateways), "group")
        used, other = sorted(gateways, key=lambda gateway: -len(gateway.received))
        other.decide = lambda _: pb.Ack(outcome=pb.OUTCOME_DUPLICATE)
        await used.stop()
        assert (await asyncio.wait_for(waiting, 60)).outcome == pb.OUTCOME_DUPLICATE
        assert used.received[0].group == other.received[0].group
        await used.start()


async def test_clients_spread_over_the_gateways(gateways: list[ScriptedGateway]):
    for _ in itertools.takewhile(lambda _: not all(gateway.received for gateway in gateways), range(60)):
        async with SubmitClient(both(gateways), TOKEN) as client:
            await client.submit(group())
    assert all(gateway.received for gateway in gateways)


@pytest.mark.parametrize(
    "make", [lambda: SubmitClient("h:1", ""), Credentials, lambda: Credentials(tls=ClientTlsConfig())]
)
async def test_without_credentials(make: Callable[[], object]):
    with pytest.raises(SettingsError, match=r"no credentials: set token_file, or tls\.certificate and tls\.key"):
        make()


@pytest.mark.parametrize("address", ["nowhere", "host:", ":1", "host:1,", "host:99999"])
async def test_what_cannot_be_an_address(address: str):
    with pytest.raises(SettingsError, match="expected host:port, or several with commas between"):
        SubmitClient(address, TOKEN)


async def test_a_file_that_is_not_there(tmp_path: Path):
    tls = ClientTlsConfig(ca=tmp_path / "ca.pem")
    with pytest.raises(SettingsError, match=r"tls\.ca = .*ca\.pem: No such file"):
        SubmitClient("127.0.0.1:1", Credentials(TOKEN, tls))


async def test_plain_text_to_another_machine_is_said_aloud(caplog: pytest.LogCaptureFixture):
    for address, said in (("127.0.0.1:1", 0), ("localhost:1,[::1]:2", 0), ("127.0.0.1:1,gateway.test:2", 1)):
        caplog.clear()
        await SubmitClient(address, TOKEN).close()
        assert [level for level, _ in logged(caplog)] == ["WARNING"] * said
        assert all(f"gateway = {address}: " in text for _, text in logged(caplog))
