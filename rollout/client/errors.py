"""The errors of the SDK: refused credentials, and a client that was closed."""

from __future__ import annotations

from runtime.errors import REFUSED, LeewayError


class AuthError(LeewayError):
    """The gateway does not accept the credentials, or they do not permit this call. Trying again does not help."""

    exit_status = REFUSED


class ClientClosedError(LeewayError):
    """The client was closed before or during a call. Whether a group was accepted is unknown; it may be submitted again."""
