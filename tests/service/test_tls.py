"""TLS and mTLS between fleets and a gateway, with certificates that are replaced while it runs."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from leeway.v1 import rollout_pb2 as pb
from rollout.client import AuthError, Credentials, SubmitClient
from rollout.config import ClientTlsConfig
from tests.service.certificates import Authority, Pair
from tests.service.fleet import TOKENS, GatewayProcess, eventually, until, valid_group, write_identities

ALPHA = "spiffe://leeway/fleet/alpha"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def server(authority: Authority) -> Pair:
    return authority.issue("gateway", "127.0.0.1", "localhost", "gateway.test")


def section(server: Pair, client_ca: Path | None = None) -> dict[str, Any]:
    files = {"certificate": str(server.certificate), "key": str(server.key)}
    return files if client_ca is None else {**files, "client_ca": str(client_ca)}


def client(
    gateway: GatewayProcess, ca: Path, token: str | None = TOKENS["alpha"], pair: Pair | None = None, **tls: Any
) -> SubmitClient:
    files = {} if pair is None else {"certificate": pair.certificate, "key": pair.key}
    return SubmitClient(gateway.address, Credentials(token, ClientTlsConfig(ca=ca, **files, **tls)), timeout_s=5.0)


async def accepted(fleet: SubmitClient) -> bool:
    ack = await asyncio.wait_for(fleet.submit(valid_group()), 60)
    return ack.outcome == pb.OUTCOME_ACCEPTED


async def never_answered(fleet: SubmitClient) -> None:
    """Whether the handshake fails, and goes on failing: no answer comes within a second."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fleet.get_ledger(), 1.0)


async def test_a_token_over_tls(start_gateway, authority, server):
    gateway = await start_gateway(tls=section(server))
    async with client(gateway, authority.certificate) as fleet:
        assert await accepted(fleet)
        assert (await fleet.get_ledger()).accepted == 1
    async with client(gateway, authority.certificate, "wrong") as stranger:
        with pytest.raises(AuthError, match="unknown token"):
            await stranger.get_ledger()


async def test_a_gateway_that_cannot_be_verified_gets_no_token(start_gateway, authority, tmp_path):
    elsewhere = authority.issue("elsewhere", "gateway.test")  # not valid for 127.0.0.1
    gateway = await start_gateway(tls=section(elsewhere))
    async with client(gateway, authority.certificate) as fleet:
        await never_answered(fleet)
    async with client(gateway, authority.certificate, server_name="gateway.test") as fleet:
        assert await accepted(fleet)
    other = Authority(tmp_path / "other")
    async with client(gateway, other.certificate, server_name="gateway.test") as fleet:
        await never_answered(fleet)
    async with SubmitClient(gateway.address, TOKENS["alpha"]) as plain:
        await never_answered(plain)


async def test_a_certificate_is_enough_where_clients_must_have_one(start_gateway, authority, server, tmp_path):
    gateway = await start_gateway(tls=section(server, authority.certificate))
    token = hashlib.sha256(TOKENS["beta"].encode()).hexdigest()
    write_identities(gateway.identities_file, {"alpha": {"sans": [ALPHA]}, "beta": {"tokens": [token]}})
    alpha, unmapped = authority.issue("alpha", ALPHA), authority.issue("unmapped", "somebody.test")
    async with client(gateway, authority.certificate, None, alpha) as fleet:
        assert await accepted(fleet)
        assert (await fleet.get_ledger()).fleet == "alpha"
    async with client(gateway, authority.certificate, TOKENS["beta"], unmapped) as fleet:
        assert (await fleet.get_ledger()).fleet == "beta"
    async with client(gateway, authority.certificate, TOKENS["beta"], alpha) as confused:
        with pytest.raises(AuthError, match="different fleets"):
            await confused.get_ledger()
    async with client(gateway, authority.certificate, None, unmapped) as stranger:
        with pytest.raises(AuthError, match="no certificate of a fleet"):
            await stranger.submit(valid_group())
    forged = Authority(tmp_path / "forged").issue("alpha", ALPHA)
    for pair in (None, forged):
        async with client(gateway, authority.certificate, TOKENS["beta"], pair) as refused:
            await never_answered(refused)


async def test_a_revoked_certificate_ends_its_stream(start_gateway, authority, server):
    gateway = await start_gateway(tls=section(server, authority.certificate))
    write_identities(gateway.identities_file, {"alpha": {"sans": [ALPHA]}})
    async with client(gateway, authority.certificate, None, authority.issue("alpha", ALPHA)) as fleet:
        assert await accepted(fleet)
        write_identities(gateway.identities_file, {})

        async def submit() -> bool:
            try:
                await fleet.submit(valid_group())
            except AuthError:
                return True
            return False

        assert await eventually(submit, lambda refused: refused)


def serial(address: str, ca: Path) -> int:
    """Returns the serial number of the certificate that the gateway shows in a handshake."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=30) as raw,
        context.wrap_socket(raw, server_hostname=host) as secured,
    ):
        return int(str((secured.getpeercert() or {})["serialNumber"]), 16)


async def test_certificates_are_replaced_while_it_runs(start_gateway, authority, server):
    gateway = await start_gateway(tls=section(server))

    async def shown() -> int:
        return await asyncio.to_thread(serial, gateway.address, authority.certificate)

    first = await shown()
    async with client(gateway, authority.certificate) as fleet:
        assert await accepted(fleet)
        renewed = authority.issue("renewed", "127.0.0.1")
        shutil.copy(renewed.certificate, server.certificate)  # the key is still the old one: half of a pair
        assert await shown() == first
        await until(lambda: "certificate not read again, the old one stays" in gateway.log())
        server.key.unlink()
        assert await shown() == first
        shutil.copy(renewed.key, server.key)
        second = await eventually(shown, lambda number: number != first)
        server.certificate.write_text("nonsense")
        assert await shown() == second
        assert await accepted(fleet)  # connections stay as they are


async def test_a_fleet_presents_its_renewed_certificate_without_a_restart(start_gateway, authority, server):
    gateway = await start_gateway(tls=section(server, authority.certificate))
    write_identities(gateway.identities_file, {"alpha": {"sans": [ALPHA]}})
    pair, renewed = authority.issue("alpha", ALPHA), authority.issue("renewed", f"{ALPHA}/2", days=9)
    async with client(gateway, authority.certificate, None, pair) as fleet:
        assert await accepted(fleet)
        shutil.copy(renewed.certificate, pair.certificate)  # the key is still the old one: half of a pair
        assert (await fleet.get_ledger()).fleet == "alpha"
        shutil.copy(renewed.key, pair.key)
        write_identities(gateway.identities_file, {"alpha": {"sans": [f"{ALPHA}/2"]}})  # the old one is refused by now
        assert (await asyncio.wait_for(fleet.get_ledger(), 60)).fleet == "alpha"
        assert await accepted(fleet)  # the stream has ended with the old one, and goes on with the new one
