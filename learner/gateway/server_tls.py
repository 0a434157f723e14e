"""Loads the gateway's own TLS certificate, and loads it again whenever its files are replaced."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import structlog

from learner.config import ServerTlsConfig
from runtime.file_stamp import FileStamp, stamp
from runtime.settings import SettingsError


class ServerCredentials:
    """TLS credentials of a server, from files that may be replaced at any time, one after the other.

    A new certificate is used from the next handshake on. While certificate and key do not belong together (one of them is
    written, the other not yet), or a file cannot be used, the last valid ones stay in use, and that is logged once.

    Args:
        config: paths of the files.

    Raises:
        SettingsError: the files cannot be used at the start.
    """

    def __init__(self, config: ServerTlsConfig) -> None:
        self._config = config
        self._log = structlog.get_logger(process="gateway")
        self._seen = self._stamps()
        self._first = self._read()

    def grpc(self) -> grpc.ServerCredentials:
        """Returns the credentials in the form that a gRPC server listens with."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._fetch,  # pyright: ignore[reportArgumentType] - None is documented: nothing new
            require_client_authentication=self._config.client_ca is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the certificate if it has changed, None if not. gRPC calls it before each handshake, on its own threads."""
        stamps = self._stamps()
        if stamps == self._seen:
            return None
        self._seen = stamps
        try:
            configuration = self._read()
        except SettingsError as error:
            self._log.error("certificate not read again, the old one stays", error=str(error))
            return None
        self._log.info("certificate read again", certificate=str(self._config.certificate))
        return configuration

    def _paths(self) -> list[Path]:
        config = self._config
        return [config.certificate, config.key, *([config.client_ca] if config.client_ca else [])]

    def _stamps(self) -> list[FileStamp]:
        return [stamp(path) for path in self._paths()]

    def _read(self) -> grpc.ServerCertificateConfiguration:
        certificate, key, *authorities = [_content(path) for path in self._paths()]
        self._require_usable()
        if [certificate, key, *authorities] != [_content(path) for path in self._paths()]:
            raise SettingsError(f"tls.certificate = {self._config.certificate}: replaced while it was read")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authorities[0] if authorities else None)

    def _require_usable(self) -> None:
        """Raises SettingsError if OpenSSL cannot use the files; gRPC itself would only report that handshakes fail."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        config = self._config
        try:
            # The empty password keeps OpenSSL from asking the terminal for one.
            context.load_cert_chain(config.certificate, config.key, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise SettingsError(
                f"tls.certificate = {config.certificate}, tls.key = {config.key}: cannot be used together ({reason}); "
                "expected a PEM certificate and its unencrypted PEM key"
            ) from error
        if config.client_ca is None:
            return
        try:
            context.load_verify_locations(cafile=config.client_ca)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or str(error)
            raise SettingsError(
                f"tls.client_ca = {config.client_ca}: cannot be used ({reason}); expected PEM certificates"
            ) from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"tls: {path}: {error.strerror}") from error
