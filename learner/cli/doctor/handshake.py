"""A TLS handshake in memory: OpenSSL's own opinion of certificate, key, chain, dates and names."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shown:
    """What the two sides have seen of each other.

    Attributes:
        error: why they did not agree; "" when they did.
        server, client: the certificates as ssl.SSLObject.getpeercert gives them; {} when none was verified.
    """

    error: str
    server: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """Files of one side. ``ca``: whom it trusts; None: this side does not verify the other."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


def handshake(server: Side, client: Side, name: str | None) -> Shown:
    """Lets the two shake hands. ``name``: what the client expects in the server's certificate; None: anything.

    Raises:
        ssl.SSLError, OSError: files that cannot be used, before any handshake.
    """
    answering = _context(ssl.PROTOCOL_TLS_SERVER, server)
    asking = _context(ssl.PROTOCOL_TLS_CLIENT, client)
    asking.check_hostname = name is not None and client.ca is not None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = asking.wrap_bio(back, there, server_hostname=name)
    callee = answering.wrap_bio(there, back, server_side=True)
    waiting = [caller, callee]
    try:
        for _ in range(10):
            waiting = [side for side in waiting if not _advance(side)]
            if not waiting:
                break
    except ssl.SSLCertVerificationError as error:
        return Shown(error.verify_message)
    except ssl.SSLError as error:
        return Shown(error.reason or str(error))
    return Shown("", caller.getpeercert() or {}, callee.getpeercert() or {})


def own(certificate: Path, key: Path) -> Shown:
    """A certificate alone, taken as its own authority: its dates and names."""
    return handshake(Side(certificate, key), Side(ca=certificate), None)


def names(certificate: dict[str, Any]) -> list[str]:
    """Subject alternative names."""
    return [str(value) for _, value in certificate.get("subjectAltName", ())]


def _context(protocol: int, side: Side) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if side.ca is None else ssl.CERT_REQUIRED
    # A file of authorities may hold an intermediate one only.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if side.ca is not None:
        context.load_verify_locations(cafile=side.ca)
    if side.certificate is not None:
        # The empty password keeps OpenSSL from asking the terminal for one.
        context.load_cert_chain(side.certificate, side.key, password="")
    return context


def _advance(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
