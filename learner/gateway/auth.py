"""Who is calling, and what the caller may do: fleets by bearer token, by client certificate, or by both."""

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

Role = Literal["submit", "operate"]
_SCHEME = "bearer "
_SAN = "x509_subject_alternative_name"


class UnauthenticatedError(Exception):
    """The caller did not prove to be a fleet. The message is for the caller and gives nothing away."""


class Identity(Settings):
    """How one fleet proves who it is, and what it may do."""

    tokens: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of a token")]] = Field(default=[])
    sans: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(default=[])
    roles: list[Role] = Field(default=["submit"])


class _Fleets(Settings):
    """The file, wrapped: its fleets are keys that a model cannot name."""

    fleets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")], Identity]


@dataclass(frozen=True)
class PresentedCredentials:
    """What a caller has shown: the SHA-256 of its token, and the names in its verified certificate."""

    digest: str | None
    sans: frozenset[str]

    @classmethod
    def of(cls, metadata: object, auth_context: Mapping[str, Iterable[bytes]]) -> PresentedCredentials:
        """Reads a call's metadata and auth context. Raises UnauthenticatedError when they are malformed."""
        sans = frozenset(name.decode(errors="replace") for name in auth_context.get(_SAN, ()))
        values = [str(value) for key, value in metadata or () if key == "authorization"]  # pyright: ignore
        if not values:
            return cls(None, sans)
        if len(values) > 1 or not values[0].lower().startswith(_SCHEME):
            raise UnauthenticatedError("authorization must be one 'Bearer <token>'")
        return cls(hashlib.sha256(values[0][len(_SCHEME) :].strip().encode()).hexdigest(), sans)


@dataclass(frozen=True)
class Caller:
    """A fleet on the line."""

    fleet: str
    roles: frozenset[Role]
    credentials: PresentedCredentials


class Identities:
    """Fleets and their credentials, from a JSON file that may be replaced at any time.

    Args:
        path: {"fleet": {"tokens": [SHA-256 in hexadecimal], "sans": [...], "roles": ["submit", "operate"]}}. A new content
            counts from the next call on; a damaged one is logged and the last good content stays.

    Raises:
        SettingsError: the file is missing or damaged at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger(process="gateway")
        self._seen = self._stamp()
        self._fleets = self._read()

    def caller(self, credentials: PresentedCredentials) -> Caller:
        """The fleet that these credentials belong to, by the file as it is now. Raises UnauthenticatedError."""
        self.reload()
        by_token = self._by_token(credentials.digest)
        by_name = {fleet for fleet, identity in self._fleets.items() if credentials.sans & set(identity.sans)}
        if len(by_name) > 1:
            raise UnauthenticatedError("the names in the certificate belong to several fleets")
        if by_token and by_name and by_name != {by_token}:
            raise UnauthenticatedError("the token and the certificate belong to different fleets")
        fleet = by_token or next(iter(by_name), None)
        if fleet is None:
            held = " and no certificate of a fleet" if credentials.sans else ""
            raise UnauthenticatedError(f"no token{held}: send metadata 'authorization: Bearer <token>'")
        return Caller(fleet, frozenset(self._fleets[fleet].roles), credentials)

    def submitters(self) -> set[str]:
        """Fleets that may send groups."""
        return {fleet for fleet, identity in self._fleets.items() if "submit" in identity.roles}

    def reload(self) -> bool:
        """Reads the file again when it has changed; whether there is a new content."""
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
        """The fleet of a token, None without one. Raises UnauthenticatedError for one that nobody has."""
        if digest is None:
            return None
        found = None
        # All entries are compared, each in constant time: how long it takes says nothing about any token.
        for fleet, identity in self._fleets.items():
            for expected in identity.tokens:
                if hmac.compare_digest(digest, expected):
                    found = fleet
        if found is None:
            raise UnauthenticatedError("unknown token")
        return found

    def _stamp(self) -> tuple[int, int, int] | None:
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
    """A credential names one fleet. Raises SettingsError."""
    owners: dict[str, str] = {}
    for fleet, identity in fleets.items():
        for credential in {*identity.tokens, *identity.sans}:
            if (other := owners.setdefault(credential, fleet)) != fleet:
                raise SettingsError(f"{source}: {other} and {fleet} share {credential!r}: give each its own")
