"""Authenticates callers as fleets, by bearer token, by client certificate, or by both, and knows their roles."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import structlog
from pydantic import Field

from learner.queue.identity_registry import AddedIdentities, AddedIdentity
from runtime.file_stamp import stamp
from runtime.settings import Settings, SettingsError

Role = Literal["submit", "operate", "evaluate"]
_SCHEME = "bearer "
_SAN = "x509_subject_alternative_name"


class UnauthenticatedError(Exception):
    """The caller did not prove to be a fleet. The message is sent to the caller and reveals no secret."""


class Identity(Settings):
    """Credentials and roles of one fleet, as the identities file has them, or as an operator has added them."""

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
        token = values[0][len(_SCHEME) :].strip()
        if not token:
            raise UnauthenticatedError("authorization has an empty token")
        return cls(hashlib.sha256(token.encode()).hexdigest(), sans)


@dataclass(frozen=True)
class Caller:
    """An authenticated fleet, for one call.

    Attributes:
        fleet: its name in the identities file, or as an operator has added it.
        roles: what it may do.
        credentials: what it was recognised by.
    """

    fleet: str
    roles: frozenset[Role]
    credentials: PresentedCredentials


class Identities:
    """Fleets and their credentials: from a JSON file that may be replaced at any time, and those that operators have added.

    Where the two disagree, the file is right: an added identity counts for nothing while the file has its name, and a
    credential of it for nothing while the file gives that to another fleet.

    Args:
        path: {"fleet": {"tokens": [SHA-256 in hexadecimal], "sans": [...], "roles": ["submit", "operate"]}}. New content
            applies from the next call on; damaged content is logged and the last valid content stays in force.

    Attributes:
        in_file: the fleets of the file, by name.
        in_force: all fleets, by name.
        added: names of those in force that operators have added.
        ignored: number of added identities that are damaged or count for nothing, in whole or with some credentials.
        revision: grows with every change of ``in_force``.

    Raises:
        SettingsError: the file is missing or damaged at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger(process="gateway")
        self._seen = stamp(self._path)
        self._added = AddedIdentities()
        self.in_file = self._read()
        self.in_force: dict[str, Identity] = {}
        self.added: frozenset[str] = frozenset()
        self.ignored = 0
        self.revision = 0
        self._apply()

    def merge(self, added: AddedIdentities) -> None:
        """Replaces the identities that operators have added; they count from the next call on."""
        self._added = added
        self._apply()

    def caller(self, credentials: PresentedCredentials) -> Caller:
        """Finds the fleet that these credentials belong to, by the file as it is now.

        Raises:
            UnauthenticatedError: they belong to no fleet, or to several.
        """
        self.reload()
        by_token = self._by_token(credentials.digest)
        by_name = {fleet for fleet, identity in self.in_force.items() if credentials.sans & set(identity.sans)}
        if len(by_name) > 1:
            raise UnauthenticatedError("the names in the certificate belong to several fleets")
        if by_token and by_name and by_name != {by_token}:
            raise UnauthenticatedError("the token and the certificate belong to different fleets")
        fleet = by_token or next(iter(by_name), None)
        if fleet is None:
            certificate = " and no certificate of a fleet" if credentials.sans else ""
            raise UnauthenticatedError(f"no token{certificate}: send metadata 'authorization: Bearer <token>'")
        return Caller(fleet, frozenset(self.in_force[fleet].roles), credentials)

    def submitters(self) -> set[str]:
        """Returns the fleets that may send groups."""
        return {fleet for fleet, identity in self.in_force.items() if "submit" in identity.roles}

    def reload(self) -> bool:
        """Reads the file again if it has changed; returns whether its new content is in force."""
        found = stamp(self._path)
        if found == self._seen:
            return False
        self._seen = found
        try:
            self.in_file = self._read()
        except SettingsError as error:
            self._log.error("identities not read again, the old ones stay", error=str(error))
            return False
        self._log.info("identities read again", fleets=len(self.in_file))
        self._apply()
        return True

    def _apply(self) -> None:
        """Puts the file's fleets and the added ones in force, without what of the added ones the file contradicts."""
        merged = dict(self.in_file)
        owners = {credential: name for name, one in merged.items() for credential in (*one.tokens, *one.sans)}
        self.ignored, added = len(self._added.damaged), set()
        for name, one in sorted(self._added.by_name.items()):
            identity = self._usable(name, one)
            if identity is None:
                self.ignored += 1
                continue
            foreign = [credential for credential in (*identity.tokens, *identity.sans) if credential in owners]
            if foreign:
                self.ignored += 1
                self._log.error(
                    "credentials of an added identity belong to another one, and count for nothing",
                    fleet=name,
                    owners=sorted({owners[credential] for credential in foreign}),
                )
                kept = {kind: [c for c in getattr(identity, kind) if c not in owners] for kind in ("tokens", "sans")}
                identity = identity.model_copy(update=kept)
            owners |= dict.fromkeys((*identity.tokens, *identity.sans), name)
            merged[name] = identity
            added.add(name)
        self.in_force, self.added = merged, frozenset(added)
        self.revision += 1

    def _usable(self, name: str, added: AddedIdentity) -> Identity | None:
        """Checks an added identity like one of the file; logs why it counts for nothing, if it does."""
        if name in self.in_file:
            self._log.error("an added identity counts for nothing: the identities file has its name", fleet=name)
            return None
        try:
            return parse_identity(name, added)
        except SettingsError as error:
            self._log.error("an added identity counts for nothing", error=str(error))
            return None

    def _by_token(self, digest: str | None) -> str | None:
        """Returns the fleet of a token, None without one. Raises UnauthenticatedError for an unknown token."""
        if digest is None:
            return None
        found = None
        # All entries are compared, each in constant time: the duration reveals nothing about any token.
        for fleet, identity in self.in_force.items():
            for expected in identity.tokens:
                if hmac.compare_digest(digest, expected):
                    found = fleet
        if found is None:
            raise UnauthenticatedError("unknown token")
        return found

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


def parse_identity(name: str, added: AddedIdentity) -> Identity:
    """Checks an added identity by the rules of the identities file.

    Raises:
        SettingsError: its name, a credential or a role is not allowed.
    """
    values = {kind: list(parts) for kind, parts in asdict(added).items()}
    return _Fleets.parse({"fleets": {name: values}}, "identity").fleets[name]


def _require_distinct(fleets: Mapping[str, Identity], source: str) -> None:
    """Raises SettingsError if two fleets share a credential."""
    owners: dict[str, str] = {}
    for fleet, identity in fleets.items():
        for credential in {*identity.tokens, *identity.sans}:
            if (other := owners.setdefault(credential, fleet)) != fleet:
                raise SettingsError(f"{source}: {other} and {fleet} share {credential!r}: give each its own")
