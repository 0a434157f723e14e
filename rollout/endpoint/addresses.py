"""The addresses that the endpoint listens on, and the one that agents are told."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import structlog

from rollout.config import EndpointConfig
from runtime.settings import SettingsError

_LONGEST_PATH = 107  # bytes that the kernel keeps of a unix socket's path


@contextlib.contextmanager
def bound_tcp(listen: str) -> Iterator[socket.socket]:
    """Binds host:port, and closes it when the block ends; port 0 takes a free one.

    Raises:
        SettingsError: it is no address, or cannot be bound.
    """
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65_535:
        raise SettingsError(f"endpoint.listen = {listen!r}: expected host:port")
    host = host.strip("[]")
    if not _is_loopback(host):
        structlog.get_logger().warning(
            "other machines can reach the endpoint, in plain text: whoever sees a key can use its episode; "
            "set endpoint.listen to 127.0.0.1:0 unless agents run elsewhere, and then keep the network private",
            listen=listen,
        )
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        bound = socket.create_server((host, int(port)), family=family)
    except OSError as error:
        raise SettingsError(
            f"endpoint.listen = {listen}: cannot be bound: {error.strerror}; stop the other process or set another address"
        ) from error
    with bound:
        yield bound


@contextlib.contextmanager
def bound_unix(path: Path) -> Iterator[socket.socket]:
    """Binds a unix socket that only this user may connect to; removes its file when the block ends.

    Raises:
        SettingsError: the path is too long, or cannot be bound.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise SettingsError(f"the endpoint's socket {path}: longer than {_LONGEST_PATH} bytes; set a shorter state_dir")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # of a worker that was killed
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        raise SettingsError(f"the endpoint's socket {path}: cannot be bound: {error.strerror}") from error
    with bound:
        try:
            yield bound
        finally:
            path.unlink(missing_ok=True)


def told_url(config: EndpointConfig, bound: socket.socket) -> str:
    """Returns the base URL that agents are told, with /v1 at its end."""
    if config.url:
        return config.url.rstrip("/").removesuffix("/v1") + "/v1"
    host, port = bound.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()  # the address of all interfaces is none to connect to
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
