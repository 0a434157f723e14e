"""Where Redis is and how we prove who we are: the queue's URL, its password file and its TLS files, for redis-py."""

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
    """A server, or the sentinels that know it.

    Attributes:
        url: for redis-py, of the server; "" with sentinels.
        options: further keyword arguments for connections to the server.
        sentinels: (host, port) of each.
        service: the name sentinels know the server by.
        sentinel_options: keyword arguments for connections to them.
    """

    url: str
    options: dict[str, Any]
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] | None = None

    @classmethod
    def of(cls, config: QueueConfig) -> Address:
        """Raises QueueError for what cannot be an address, or files that cannot be read."""
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
    """The URL as it may be shown."""
    scheme, separator, rest = url.partition("://")
    place, question, query = rest.partition("?")
    credentials, at, address = place.rpartition("@")
    shown = f"***@{address}" if at and credentials else place
    return f"{scheme}{separator}{shown}{question}" + _QUERY_PASSWORD.sub(r"\1***", query)


class PasswordFile(CredentialProvider):
    """Reads the password anew for each connection, so that it may be changed while we run."""

    def __init__(self, path: Path, user: str | None) -> None:
        self._path = path
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self._path.read_text().strip()
        except OSError as error:
            raise redis.AuthenticationError(f"password_file = {self._path}: {error.strerror}") from error
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def _behind_sentinels(config: QueueConfig, parts: SplitResult, secured: dict[str, Any]) -> Address:
    path = [unquote(part) for part in parts.path.strip("/").split("/")]
    if not path[0] or len(path) > 2 or (len(path) == 2 and not path[1].isdecimal()):
        raise ValueError("expected redis+sentinel://[user:password@]host:26379,host:26379/name/0")
    # As (host, port): what urlsplit makes of several hosts is of no use.
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
    asked = {"username": query.get("sentinel_user"), "password": query.get("sentinel_password"), **secured}
    if parts.scheme == "rediss+sentinel":
        options["ssl"] = asked["ssl"] = True
    return Address("", options, tuple(_host_and_port(host) for host in hosts), path[0], asked)


def _credentials(config: QueueConfig, parts: SplitResult) -> PasswordFile | None:
    if config.password_file is None:
        return None
    user, password = _userinfo(parts)
    if password is not None:
        raise ValueError("it holds a password, and password_file is set: use one of them")
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
            raise ValueError("tls is set, but this is no TLS address: write rediss:// or rediss+sentinel://")
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
