"""TLS files of a fleet as gRPC takes them, read again when they are replaced."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from rollout.config import ClientTlsConfig
from runtime.file_stamp import FileStamp, stamp
from runtime.settings import SettingsError

_log = logging.getLogger(__name__)


class TlsFiles:
    """Channel credentials from files that may be replaced at any time, one after the other.

    While certificate and key do not belong together (one of them is written, the other not yet), or a file cannot be used,
    the last valid ones stay in use, and that is logged once.

    Args:
        config: paths of the files.

    Attributes:
        credentials: for a connection that is opened now.
        renewals: how often they have become others.

    Raises:
        SettingsError: the files cannot be used at the start.
    """

    def __init__(self, config: ClientTlsConfig) -> None:
        self._config = config
        self._seen = self._stamps()
        self._content = self._read()
        self.credentials = _channel_credentials(*self._content)
        self.renewals = 0

    def renewed(self) -> bool:
        """Reads the files if they have changed; returns whether ``credentials`` are others now."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            content = self._read()
        except SettingsError as error:
            _log.error("certificate not read again, the old one stays: %s", error)
            return False
        if content == self._content:
            return False
        self._content = content
        self.credentials = _channel_credentials(*content)
        self.renewals += 1
        _log.info("certificate read again: %s", self._config.certificate or self._config.ca)
        return True

    def _paths(self) -> dict[str, Path | None]:
        return {"ca": self._config.ca, "key": self._config.key, "certificate": self._config.certificate}

    def _stamps(self) -> list[FileStamp]:
        return [None if path is None else stamp(path) for path in self._paths().values()]

    def _read(self) -> list[bytes | None]:
        content = self._bytes()
        self._require_usable()
        if self._bytes() != content:
            raise SettingsError("tls: a file was replaced while it was read")
        return content

    def _bytes(self) -> list[bytes | None]:
        return [_content(field, path) for field, path in self._paths().items()]

    def _require_usable(self) -> None:
        """Raises SettingsError if OpenSSL cannot use the files; gRPC itself would only report that handshakes fail."""
        config, context = self._config, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if config.certificate is not None and config.key is not None:
                # The empty password keeps OpenSSL from asking the terminal for one.
                context.load_cert_chain(config.certificate, config.key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise SettingsError(
                f"tls.certificate = {config.certificate}, tls.key = {config.key}: cannot be used together ({reason}); "
                "expected a PEM certificate and its unencrypted PEM key"
            ) from error
        try:
            if config.ca is not None:
                context.load_verify_locations(cafile=config.ca)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise SettingsError(
                f"tls.ca = {config.ca}: cannot be used ({reason}); expected PEM certificates"
            ) from error


def _channel_credentials(ca: bytes | None, key: bytes | None, certificate: bytes | None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)


def _content(field: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"tls.{field} = {path}: {error.strerror}") from error
