"""Connections to the gateways of a run: one is used at a time, and the next one when it fails."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random

import grpc
import grpc.aio

from leeway.v1 import rollout_pb2, rollout_pb2_grpc
from rollout.client.credentials import BearerToken, Credentials, Presented
from rollout.client.tls_files import TlsFiles
from runtime.settings import SettingsError

_log = logging.getLogger(__name__)

_SUBMIT = "/leeway.v1.RolloutService/Submit"
_RETIRED_S = 3600.0  # for the calls of a connection whose certificate has been replaced; a stream is then opened again


class Endpoints:
    """Connections to a run's gateways, opened when first used, and the credentials that calls on them present.

    A client starts with a random one of several gateways, so that they share the load. Where the files of the credentials
    have been replaced, the next call presents the new ones; calls under way end on the connection that they began on.

    Args:
        addresses: host:port; several, separated by commas, are gateways of the same run.
        credentials: the fleet's; ``credentials.tls`` says how gateways are verified.
        max_message_bytes: largest message in either direction.

    Raises:
        SettingsError: an address is malformed, or a file of the credentials cannot be used.
    """

    def __init__(self, addresses: str, credentials: Credentials, max_message_bytes: int) -> None:
        self._addresses = [_checked(address.strip(), addresses) for address in addresses.split(",")]
        random.shuffle(self._addresses)
        tls = credentials.tls
        self._token = BearerToken(credentials)
        self._tls = None if tls is None else TlsFiles(tls)
        self._options = _options(max_message_bytes)
        if tls is not None and tls.server_name is not None:
            self._options.append(("grpc.ssl_target_name_override", tls.server_name))
        if tls is None and not all(map(_is_this_machine, self._addresses)):
            _log.warning("gateway = %s: the token and all groups travel in plain text; set tls", addresses)
        self._current = 0
        self._open: dict[str, tuple[grpc.aio.Channel, rollout_pb2_grpc.RolloutServiceStub]] = {}
        self._retired: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    @property
    def presented(self) -> Presented:
        """The credentials of a call that begins now, on ``stub``."""
        self._renew()
        return Presented(self._token.metadata, 0 if self._tls is None else self._tls.renewals)

    @property
    def stub(self) -> rollout_pb2_grpc.RolloutServiceStub:
        """The stub of the gateway in use. Its Submit takes SubmitRequests that are encoded already (``bytes``)."""
        self._renew()
        address = self._addresses[self._current]
        if address not in self._open:
            if self._tls is None:
                channel = grpc.aio.insecure_channel(address, options=self._options)
            else:
                channel = grpc.aio.secure_channel(address, self._tls.credentials, options=self._options)
            stub = rollout_pb2_grpc.RolloutServiceStub(channel)
            # Without a serializer: a group is serialized once, however often it is sent.
            stub.Submit = channel.stream_stream(_SUBMIT, None, rollout_pb2.SubmitResponse.FromString)
            self._open[address] = (channel, stub)
        return self._open[address][1]

    def move_on(self, failed: rollout_pb2_grpc.RolloutServiceStub) -> None:
        """Switches to the next gateway, unless another caller has switched away from ``failed`` already."""
        if self.stub is failed:
            self._current = (self._current + 1) % len(self._addresses)

    async def close(self) -> None:
        """Closes every connection."""
        for closing in self._retired:
            closing.cancel()
        for channel in [*self._retired.values(), *(channel for channel, _ in self._open.values())]:
            await channel.close()

    def _renew(self) -> None:
        """Where the TLS files are others: lets the open connections end with their calls; the next call opens a new one."""
        if self._tls is None or not self._tls.renewed():
            return
        for channel, _ in self._open.values():
            closing = asyncio.create_task(channel.close(_RETIRED_S))
            self._retired[closing] = channel
            closing.add_done_callback(self._retired.pop)
        self._open.clear()


def _checked(address: str, given: str) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise SettingsError(f"gateway = {given!r}: expected host:port, or several with commas between")
    return address


def _is_this_machine(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A connection that was cut silently is noticed after a minute, and retried at most every 5 s.
        ("grpc.keepalive_time_ms", 40_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
