"""A TLS handshake in memory: lets OpenSSL itself verify certificates, keys, chains, dates and names."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MOST_ROUNDS = 10  # TLS needs fewer; the bound ends a handshake that makes no progress


@dataclass(frozen=True)
class PresentedCertificates:
    """The certificates that client and server presented to each other in one handshake, or why it failed.

    Attributes:
        error: why the handshake failed; "" when it succeeded.
        server, client: the certificates, in the form of ssl.SSLObject.getpeercert; {} when none was verified.
    """

    error: str
    server: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TlsSide:
    """The PEM files of one side of a connection.

    Attributes:
        certificate, key: what this side presents; None: it presents nothing.
        ca: the authorities that this side trusts; None: it does not verify the other side.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


def handshake(server: TlsSide, client: TlsSide, name: str | None) -> PresentedCertificates:
    """Performs a TLS handshake between the two sides, without a network.

    Args:
        server: the files of the server's side.
        client: the files of the client's side.
        name: the name that the client expects in the server's certificate; None: any.

    Raises:
        ssl.SSLError, OSError: a file cannot be used; there was no handshake.
    """
    server_context = _context(ssl.PROTOCOL_TLS_SERVER, server)
    client_context = _context(ssl.PROTOCOL_TLS_CLIENT, client)
    client_context.check_hostname = name is not None and client.ca is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server_end = server_context.wrap_bio(to_server, to_client, server_side=True)
    unfinished = [client_end, server_end]
    try:
        for _ in range(_MOST_ROUNDS):
            unfinished = [end for end in unfinished if not _advance(end)]
            if not unfinished:
                break
    except ssl.SSLCertVerificationError as error:
        return PresentedCertificates(error.verify_message)
    except ssl.SSLError as error:
        return PresentedCertificates(error.reason or str(error))
    return PresentedCertificates("", client_end.getpeercert() or {}, server_end.getpeercert() or {})


def self_handshake(certificate: Path, key: Path) -> PresentedCertificates:
    """Performs a handshake in which a certificate is its own authority, which reads its names and checks its dates.

    Raises:
        ssl.SSLError, OSError: a file cannot be used, or the key is not the certificate's.
    """
    return handshake(TlsSide(certificate, key), TlsSide(ca=certificate), None)


def alternative_names(certificate: dict[str, Any]) -> list[str]:
    """The subject alternative names of a certificate."""
    return [str(value) for _, value in certificate.get("subjectAltName", ())]


def _context(protocol: int, side: TlsSide) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if side.ca is None else ssl.CERT_REQUIRED
    # A file of authorities may contain an intermediate one only.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if side.ca is not None:
        context.load_verify_locations(cafile=side.ca)
    if side.certificate is not None:
        # The empty password keeps OpenSSL from asking the terminal for one.
        context.load_cert_chain(side.certificate, side.key, password="")
    return context


def _advance(end: ssl.SSLObject) -> bool:
    """Takes one end as far as it can go; returns whether its handshake is complete."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
