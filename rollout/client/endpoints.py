"""Connections to the gateways of a run: one is used at a time, and the next one when it fails."""

from __future__ import annotations

import ipaddress
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from leeway.v1 import rollout_pb2, rollout_pb2_grpc
from rollout.config import ClientTlsConfig
from runtime.settings import SettingsError

_log = logging.getLogger(__name__)

_SUBMIT = "/leeway.v1.RolloutService/Submit"


@dataclass(frozen=True)
class Credentials:
    """A fleet's credentials: a bearer token, a client certificate in ``tls``, or both.

    Attributes:
        token: the fleet's bearer token.
        tls: None: the connection is plain text.

    Raises:
        SettingsError: there is neither a token nor a client certificate.
    """

    token: str | None = None
    tls: ClientTlsConfig | None = None

    def __post_init__(self) -> None:
        if not self.token and (self.tls is None or self.tls.certificate is None):
            raise SettingsError(
                "no credentials: set token_file, or tls.certificate and tls.key; the gateway must know the fleet"
            )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The gRPC metadata of each call: the bearer token, or nothing."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


class Endpoints:
    """Connections to a run's gateways, opened when first used.

    A client starts with a random one of several gateways, so that they share the load.

    Args:
        addresses: host:port; several, separated by commas, are gateways of the same run.
        credentials: the fleet's; ``credentials.tls`` says how gateways are verified.
        max_message_bytes: largest message in either direction.

    Raises:
        SettingsError: an address is malformed, or a TLS file cannot be read.
    """

    def __init__(self, addresses: str, credentials: Credentials, max_message_bytes: int) -> None:
        self._addresses = [_checked(address.strip(), addresses) for address in addresses.split(",")]
        random.shuffle(self._addresses)
        tls = credentials.tls
        self._credentials = None if tls is None else _channel_credentials(tls)
        self._options = _options(max_message_bytes)
        if tls is not None and tls.server_name is not None:
            self._options.append(("grpc.ssl_target_name_override", tls.server_name))
        if tls is None and not all(map(_is_this_machine, self._addresses)):
            _log.warning("gateway = %s: the token and all groups travel in plain text; set tls", addresses)
        self._current = 0
        self._open: dict[str, tuple[grpc.aio.Channel, rollout_pb2_grpc.RolloutServiceStub]] = {}

    @property
    def stub(self) -> rollout_pb2_grpc.RolloutServiceStub:
        """The stub of the gateway in use. Its Submit takes SubmitRequests that are encoded already (``bytes``)."""
        address = self._addresses[self._current]
        if address not in self._open:
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(address, options=self._options)
            else:
                channel = grpc.aio.secure_channel(address, self._credentials, options=self._options)
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
        for channel, _ in self._open.values():
            await channel.close()


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


def _channel_credentials(tls: ClientTlsConfig) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_content("ca", tls.ca),
        private_key=_content("key", tls.key),
        certificate_chain=_content("certificate", tls.certificate),
    )


def _content(field: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"tls.{field} = {path}: {error.strerror}") from error


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
