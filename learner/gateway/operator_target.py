"""Where an operator's program finds a run: a gateway's address, its token file and its TLS files."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MISCONFIGURED, LeewayError


class OperatorError(LeewayError):
    """A call to a gateway that failed. The message is one line: which gateway, what is wrong, what to do."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class Target:
    """A gateway, and the credentials of an operator there.

    Attributes:
        address: host:port.
        token_file: file with the bearer token of an identity that has the role operate; None: the certificate alone says who
            calls.
        ca: PEM of the authorities that the gateway's certificate is verified with; None: the system's.
        certificate: PEM of the operator's own certificate, for mTLS.
        key: PEM of its private key.
        server_name: name in the gateway's certificate, if it is not the host of ``address``, as behind a forwarded port.
        insecure: whether the token may travel in plain text to another machine.
    """

    address: str
    token_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise OperatorError(f"--gateway {self.address!r}: expected HOST:PORT, such as gateway.example.com:50051")
        if (self.certificate is None) != (self.key is None):
            raise OperatorError("--certificate and --key belong together: give both, or neither")
        if self.insecure and self._names_tls:
            raise OperatorError("--insecure means plain text: leave it out, or leave out --ca, --certificate and --key")
        if self.token_file is None and self.certificate is None:
            raise OperatorError(
                "no credentials: give --token-file F (or LEEWAY_TOKEN_FILE) with the token of an identity that has the role "
                "operate, or --certificate and --key"
            )

    @property
    def plain_text(self) -> bool:
        """Whether the connection is plain text: to this machine where no TLS file is named, or wherever it is allowed."""
        return self.insecure or (not self._names_tls and is_this_machine(self.address))

    @property
    def _names_tls(self) -> bool:
        return any(value is not None for value in (self.ca, self.certificate, self.server_name))

    def token(self) -> str | None:
        """Reads the token; None without a token file. Raises OperatorError when there is no usable token in it."""
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"--token-file {self.token_file}: {_reason(error)}") from error
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise OperatorError(f"--token-file {self.token_file}: expected one token, printable and without spaces")
        return token

    def content(self, option: str) -> bytes | None:
        """Reads the file of ``ca``, ``certificate`` or ``key``; None where none is named. Raises OperatorError."""
        path: Path | None = getattr(self, option)
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise OperatorError(f"--{option} {path}: {_reason(error)}") from error


def is_this_machine(address: str) -> bool:
    """Whether ``host:port`` is an address that only processes of this machine can have."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "not text"
