"""Binds the address that a gateway listens on, with TLS or, where that is safe or allowed, in plain text."""

from __future__ import annotations

import ipaddress
import socket

import grpc.aio

from learner.config import GatewayConfig
from learner.gateway.server_tls import ServerCredentials
from runtime.settings import SettingsError


def bind(server: grpc.aio.Server, config: GatewayConfig) -> str:
    """Binds the configured address.

    Args:
        server: not started yet.
        config: address, TLS, and whether plain text may leave this machine.

    Returns:
        host:port, with the port that was bound if the configured one is 0.

    Raises:
        SettingsError: the address or the certificate cannot be used, or tokens would cross a network in plain text.
    """
    listen = config.listen
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise SettingsError(f"listen = {listen!r}: expected host:port")
    if config.tls is None and not config.insecure and not _is_this_machine(host.strip("[]")):
        raise SettingsError(
            f"listen = {listen}: other machines can reach it, and without [tls] they would send tokens in plain text; "
            "set tls.certificate and tls.key, or insecure = true where the network itself is trusted"
        )
    try:
        # gRPC reports only "failed to bind", after several lines of log: the system is asked first, for the reason.
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        if config.tls is None:
            bound = server.add_insecure_port(listen)
        else:
            bound = server.add_secure_port(listen, ServerCredentials(config.tls).grpc())
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(
            f"listen = {listen}: cannot be bound: {reason}; stop the other process or set another address"
        ) from error
    return f"{host}:{bound}"


def _is_this_machine(host: str) -> bool:
    """Whether only processes of this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
