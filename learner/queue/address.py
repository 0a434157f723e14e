"""Turns the queue's URL, password file and TLS files into arguments for redis-py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import redis
from redis.credentials import CredentialProvider

from learner.config import QueueConfig
from learner.queue.errors import QueueError

_SERVERS = ("redis", "rediss", "unix")
_SENTINELS = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_PORT = 26379
_QUERY_PASSWORD = re.compile(r"(password=)[^&]*")


@dataclass(frozen=True)
class Address:
    """Address of a Redis server, or of the sentinels that know it, as redis-py takes it.

    Attributes:
        url: URL of the server; "" with sentinels.
        options: further keyword arguments for connections to the server.
        sentinels: (host, port) of each sentinel.
        service: name by which the sentinels know the server.
        sentinel_options: keyword arguments for connections to the sentinels.
    """

    url: str
    options: dict[str, Any]
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] | None = None

    @classmethod
    def of(cls, config: QueueConfig) -> Address:
        """Parses the configured address and checks that its files can be read.

        Raises:
            QueueError: ``queue.url`` is not a valid address, or a file cannot be read.
        """
        try:
            parts = urlsplit(config.url)
            if parts.scheme not in (*_SERVERS, *_SENTINELS):
                expected = ", ".join(f"{scheme}://" for scheme in (*_SERVERS, *_SENTINELS))
                raise ValueError(f"expected one of {expected}")
            secured = _tls(config, parts.scheme)
            if parts.scheme in _SENTINELS:
                return _behind_sentinels(config, parts, secured)
            credentials = _credentials(config, parts)
            url = (
                config.url if credentials is None else config.url.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1)
            )
            return cls(url, secured if credentials is None else {**secured, "credential_provider": credentials})
        except ValueError as error:
            raise QueueError(f"queue.url = {without_password(config.url)!r}: {error}") from error


def without_password(url: str) -> str:
    """Returns the URL with its credentials replaced by ``***``, for messages."""
    scheme, separator, rest = url.partition("://")
    authority, question, query = rest.partition("?")
    credentials, at, address = authority.rpartition("@")
    shown = f"***@{address}" if at and credentials else authority
    return f"{scheme}{separator}{shown}{question}" + _QUERY_PASSWORD.sub(r"\1***", query)


class PasswordFile(CredentialProvider):
    """Credentials from a file that is read again for each connection, so that the password can change at run time.

    Args:
        path: the file; white space around the password is ignored.
        user: user name; None for Redis's default user.
    """

    def __init__(self, path: Path, user: str | None) -> None:
        self._path = path
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Reads the file and returns (user, password), or (password,) for the default user.

        Raises:
            AuthenticationError: the file cannot be read.
        """
        try:
            password = self._path.read_text().strip()
        except OSError as error:
            raise redis.AuthenticationError(f"password_file = {self._path}: {error.strerror}") from error
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Asyncio variant of ``get_credentials``."""
        return self.get_credentials()


def _behind_sentinels(config: QueueConfig, parts: SplitResult, secured: dict[str, Any]) -> Address:
    path = [unquote(part) for part in parts.path.strip("/").split("/")]
    if not path[0] or len(path) > 2 or (len(path) == 2 and not path[1].isdecimal()):
        raise ValueError("expected redis+sentinel://[user:password@]host:26379,host:26379/name/0")
    # urlsplit cannot parse several hosts: they are split here.
    hosts = parts.netloc.rpartition("@")[2].split(",")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = set(query) - {"sentinel_user", "sentinel_password"}
    if unknown:
        raise ValueError(f"unknown option {min(unknown)!r}; known: sentinel_user, sentinel_password")
    user, password = _userinfo(parts)
    options: dict[str, Any] = {"db": int(path[1]) if len(path) == 2 else 0, **secured}
    credentials = _credentials(config, parts)
    if credentials is not None:
        options["credential_provider"] = credentials
    else:
        options.update(username=user, password=password)
    sentinel_options = {"username": query.get("sentinel_user"), "password": query.get("sentinel_password"), **secured}
    if parts.scheme == "rediss+sentinel":
        options["ssl"] = sentinel_options["ssl"] = True
    return Address("", options, tuple(_host_and_port(host) for host in hosts), path[0], sentinel_options)


def _credentials(config: QueueConfig, parts: SplitResult) -> PasswordFile | None:
    if config.password_file is None:
        return None
    user, password = _userinfo(parts)
    if password is not None:
        raise ValueError("the URL contains a password, and queue.password_file is set: use one of them")
    _require_readable("password_file", config.password_file)
    return PasswordFile(config.password_file, user)


def _userinfo(parts: SplitResult) -> tuple[str | None, str | None]:
    userinfo, at, _ = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    return (unquote(user) or None if at else None, unquote(password) if colon else None)


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":") if re.search(r":\d+$", text) else (text, "", "")
    if not host.strip("[]"):
        raise ValueError(f"{text!r} is not a sentinel's host:port")
    return host.strip("[]"), int(port) if colon else _SENTINEL_PORT


def _tls(config: QueueConfig, scheme: str) -> dict[str, Any]:
    files = {"ca": config.tls.ca, "certificate": config.tls.certificate, "key": config.tls.key}
    if not scheme.startswith("rediss"):
        if any(files.values()):
            raise ValueError(
                "queue.tls is set, but the URL is not a TLS address: write rediss:// or rediss+sentinel://"
            )
        return {}
    for name, path in files.items():
        if path is not None:
            _require_readable(f"tls.{name}", path)
    names = {"ca": "ssl_ca_certs", "certificate": "ssl_certfile", "key": "ssl_keyfile"}
    given = {names[name]: str(path) for name, path in files.items() if path is not None}
    return {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **given}


def _require_readable(field: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise QueueError(f"queue.{field} = {path}: {error.strerror}") from error
