"""When a certificate ends."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509


def expiry(path: Path) -> float:
    """Unix seconds at which the first certificate of a PEM file (its owner's, before its chain) ends.

    0 when the file cannot be read or holds none, as while it is replaced: whoever watches the date should then look.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return 0.0
