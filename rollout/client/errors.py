"""The error of refused credentials."""

from __future__ import annotations

from runtime.errors import REFUSED, LeewayError


class AuthError(LeewayError):
    """The gateway does not accept the credentials, or they do not permit this call. Trying again does not help."""

    exit_status = REFUSED
