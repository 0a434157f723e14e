"""The end of a TLS certificate's validity."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509


def expiry(path: Path) -> float:
    """Unix seconds at which the first certificate of a PEM file (its owner's; the chain follows it) expires.

    Returns 0 when the file cannot be read or has no certificate, which an alert on the date notices at once.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return 0.0
