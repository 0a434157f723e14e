"""A fleet's credentials: a bearer token, or the file that holds it, and the files of its TLS certificate.

Files are read again when they have been replaced, so that a token or a certificate is rotated without a restart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from rollout.config import ClientTlsConfig
from runtime.file_stamp import stamp
from runtime.settings import SettingsError

_log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Credentials:
    """A fleet's credentials: a bearer token, a client certificate in ``tls``, or both.

    Attributes:
        token: the fleet's bearer token.
        tls: None: the connection is plain text. Its files are read again when they are replaced.
        token_file: file with the token, instead of ``token``; it is read again when it is replaced.

    Raises:
        SettingsError: there is neither a token nor a client certificate, or there are two tokens, or the file has none.
    """

    token: str | None = None
    tls: ClientTlsConfig | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if self.token and self.token_file is not None:
            raise SettingsError(f"token_file = {self.token_file}: a token was given too; give one of them")
        if self.token_file is not None:
            _read(self.token_file)
        if not self.token and self.token_file is None and (self.tls is None or self.tls.certificate is None):
            raise SettingsError(
                "no credentials: set token_file, or tls.certificate and tls.key; the gateway must know the fleet"
            )


@dataclass(frozen=True)
class Presented:
    """Credentials that a call has presented.

    Attributes:
        metadata: gRPC metadata with the token; nothing without one.
        certificate: how often the TLS files had been renewed when its connection was opened; 0 without TLS.
    """

    metadata: Metadata
    certificate: int = 0


class BearerToken:
    """The token that calls present, as its file has it now; one that was given as text never changes.

    Args:
        credentials: the fleet's.

    Raises:
        SettingsError: the token file cannot be read, or is empty.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._file = credentials.token_file
        self._seen = None if self._file is None else stamp(self._file)
        self._token = credentials.token if self._file is None else _read(self._file)

    @property
    def metadata(self) -> Metadata:
        """The gRPC metadata of a call that begins now: the bearer token, or nothing."""
        if self._file is not None and (now := stamp(self._file)) != self._seen:
            self._seen = now
            self._read_again(self._file)
        return (("authorization", f"Bearer {self._token}"),) if self._token else ()

    def _read_again(self, file: Path) -> None:
        try:
            token = _read(file)
        except SettingsError as error:
            _log.error("token not read again, the old one stays: %s", error)
            return
        if token != self._token:
            self._token = token
            _log.info("token read again: token_file = %s", file)


def _read(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise SettingsError(f"token_file = {path}: {reason}") from error
    if not token:
        raise SettingsError(f"token_file = {path}: the file is empty")
    if not token.isascii() or len(token.split()) > 1:
        raise SettingsError(f"token_file = {path}: more than one word, or not ASCII: expected the fleet's token alone")
    return token
