"""Why a gateway does not do what an operator asks: the request is wrong, or the state of the run forbids it."""

from __future__ import annotations

from typing import ClassVar

from runtime.errors import MISCONFIGURED, LeewayError


class InvalidRequestError(LeewayError):
    """A field of the request cannot be taken. The message names the field, its value and what is expected."""

    exit_status: ClassVar[int] = MISCONFIGURED


class RefusedRequestError(LeewayError):
    """The request is well-formed, and the run is not in a state in which it can be done. The message says what to do."""
