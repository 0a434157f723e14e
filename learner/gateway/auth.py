"""Who is calling: the fleet that a bearer token belongs to."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path

import structlog

from runtime.settings import SettingsError

_FLEET = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEME = "bearer "


class UnauthenticatedError(Exception):
    """The caller did not prove to be a fleet. The message is for the caller and gives nothing away."""


class Tokens:
    """Fleets by the SHA-256 of their tokens, from a JSON file that may be replaced at any time.

    Args:
        path: {"fleet": {"tokens": ["SHA-256 of its token, 64 hexadecimal digits"]}}. A new content counts from the next
            call on; a damaged one is logged and the last good content stays.

    Raises:
        SettingsError: the file is missing or damaged at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = structlog.get_logger(process="gateway")
        self._seen = self._stamp()
        self._fleets = self._read()

    def fleet(self, metadata: object) -> str:
        """The fleet whose token the call's metadata carries. Raises UnauthenticatedError."""
        self._reload()
        values = [str(value) for key, value in metadata or () if key == "authorization"]  # pyright: ignore
        if not values:
            raise UnauthenticatedError("no token: send metadata 'authorization: Bearer <token>'")
        if len(values) > 1 or not values[0].lower().startswith(_SCHEME):
            raise UnauthenticatedError("authorization must be one 'Bearer <token>'")
        digest = hashlib.sha256(values[0][len(_SCHEME) :].strip().encode()).hexdigest()
        found = ""
        # All entries are compared, each in constant time: how long it takes says nothing about any token.
        for fleet, tokens in self._fleets.items():
            for expected in tokens:
                if hmac.compare_digest(digest, expected):
                    found = fleet
        if not found:
            raise UnauthenticatedError("unknown token")
        return found

    def _reload(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._fleets = self._read()
            self._log.info("tokens read again", fleets=len(self._fleets))
        except SettingsError as error:
            self._log.error("tokens not read again, the old ones stay", error=str(error))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> dict[str, list[str]]:
        try:
            values = json.loads(self._path.read_text())
        except OSError as error:
            raise SettingsError(f"identities_file = {self._path}: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(f"identities_file = {self._path}: not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise SettingsError(f"identities_file = {self._path}: expected an object of fleets")
        for fleet, identity in values.items():
            if not _FLEET.fullmatch(fleet):
                raise SettingsError(
                    f"identities_file = {self._path}: fleet {fleet!r}: expected [A-Za-z0-9._-], 1 to 64"
                )
            tokens = identity.get("tokens", []) if isinstance(identity, dict) else None
            if not isinstance(tokens, list) or not all(isinstance(t, str) and _SHA256.fullmatch(t) for t in tokens):
                raise SettingsError(
                    f"identities_file = {self._path}: fleet {fleet!r}: tokens: expected a list of SHA-256 of its tokens, "
                    "64 lower-case hexadecimal digits each"
                )
        return {fleet: identity.get("tokens", []) for fleet, identity in values.items()}
