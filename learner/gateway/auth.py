"""Authenticates callers as fleets, by bearer token, by client certificate, or by both, and knows their roles."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import Field

from runtime.settings import Settings, SettingsError

Role = Literal["submit", "operate", "evaluate"]
_SCHEME = "bearer "
_SAN = "x509_subject_alternative_name"


class UnauthenticatedError(Exception):
    """The caller did not prove to be a fleet. The message is sent to the caller and reveals no secret."""


class Identity(Settings):
    """Credentials and roles of one fleet, as the identities file has them."""

    tokens: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of a token")]] = Field(default=[])
    sans: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(default=[])
    roles: list[Role] = Field(default=["submit"])


class _Fleets(Settings):
    """Content of the identities file under one key, because its own keys are names of fleets, not fields of a model."""

    fleets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], Identity]


@dataclass(frozen=True)
class PresentedCredentials:
    """Credentials that a caller has sent.

    Attributes:
        digest: SHA-256 of the bearer token, 64 hexadecimal digits; None without a token.
        sans: subject alternative names of the verified client certificate; empty without one.
    """

    digest: str | None
    sans: frozenset[str]

    @classmethod
    def of(cls, metadata: object, auth_context: Mapping[str, Iterable[bytes]]) -> PresentedCredentials:
        """Reads the credentials of a call.

        Args:
            metadata: the call's invocation metadata, (key, value) pairs.
            auth_context: gRPC's authentication context of the call's connection.

        Raises:
            UnauthenticatedError: the authorization metadata is malformed.
        """
        sans = frozenset(name.decode(errors="replace") for name in auth_context.get(_SAN, ()))
        values = [str(value) for key, value in metadata or () if key == "authorization"]  # pyright: ignore
        if not values:
            return cls(None, sans)
        if len(values) > 1 or not values[0].lower().startswith(_SCHEME):
            raise UnauthenticatedError("authorization must be one 'Bearer <token>'")
        return cls(hashlib.sha256(values[0][len(_SCHEME) :].strip().encode()).hexdigest(), sans)


@dataclass(frozen=True)
class Caller:
    """An authenticated fleet, for one call.

    Attributes:
        fleet: its name in the identities file.
        roles: what it may do.
        credentials: what it was recognised by.
    """

    fleet: str
    roles: frozenset[Role]
    credentials: PresentedCredentials


class Identities:
    """Fleets and their credentials, from a JSON file that may be replaced at any time.

    Args:
        path: {"fleet": {"tokens": [SHA-256 in hexadecimal], "sans": [...], "roles": ["submit", "operate"]}}. New content
            applies from the next call on; damaged content is logged and the last valid content stays in force.

    Raises:
        SettingsError: the file is missing or damaged at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger(process="gateway")
        self._seen = self._stamp()
        self._fleets = self._read()

    def caller(self, credentials: PresentedCredentials) -> Caller:
        """Finds the fleet that these credentials belong to, by the file as it is now.

        Raises:
            UnauthenticatedError: they belong to no fleet, or to several.
        """
        self.reload()
        by_token = self._by_token(credentials.digest)
        by_name = {fleet for fleet, identity in self._fleets.items() if credentials.sans & set(identity.sans)}
        if len(by_name) > 1:
            raise UnauthenticatedError("the names in the certificate belong to several fleets")
        if by_token and by_name and by_name != {by_token}:
            raise UnauthenticatedError("the token and the certificate belong to different fleets")
        fleet = by_token or next(iter(by_name), None)
        if fleet is None:
            certificate = " and no certificate of a fleet" if credentials.sans else ""
            raise UnauthenticatedError(f"no token{certificate}: send metadata 'authorization: Bearer <token>'")
        return Caller(fleet, frozenset(self._fleets[fleet].roles), credentials)

    def submitters(self) -> set[str]:
        """Returns the fleets that may send groups."""
        return {fleet for fleet, identity in self._fleets.items() if "submit" in identity.roles}

    def reload(self) -> bool:
        """Reads the file again if it has changed; returns whether its new content is in force."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            self._fleets = self._read()
        except SettingsError as error:
            self._log.error("identities not read again, the old ones stay", error=str(error))
            return False
        self._log.info("identities read again", fleets=len(self._fleets))
        return True

    def _by_token(self, digest: str | None) -> str | None:
        """Returns the fleet of a token, None without one. Raises UnauthenticatedError for an unknown token."""
        if digest is None:
            return None
        found = None
        # All entries are compared, each in constant time: the duration reveals nothing about any token.
        for fleet, identity in self._fleets.items():
            for expected in identity.tokens:
                if hmac.compare_digest(digest, expected):
                    found = fleet
        if found is None:
            raise UnauthenticatedError("unknown token")
        return found

    def _stamp(self) -> tuple[int, int, int] | None:
        """Returns what changes whenever the file is replaced; None if it cannot be read."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> dict[str, Identity]:
        source = f"identities_file = {self._path}"
        try:
            values = json.loads(self._path.read_text())
        except OSError as error:
            raise SettingsError(f"{source}: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(f"{source}: not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise SettingsError(f"{source}: expected an object of fleets")
        fleets = _Fleets.parse({"fleets": values}, source).fleets
        _require_distinct(fleets, source)
        return fleets


def _require_distinct(fleets: Mapping[str, Identity], source: str) -> None:
    """Raises SettingsError if two fleets share a credential."""
    owners: dict[str, str] = {}
    for fleet, identity in fleets.items():
        for credential in {*identity.tokens, *identity.sans}:
            if (other := owners.setdefault(credential, fleet)) != fleet:
                raise SettingsError(f"{source}: {other} and {fleet} share {credential!r}: give each its own")
