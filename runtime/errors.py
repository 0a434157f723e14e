"""The base class of errors that end a process with one clear line instead of a traceback."""

from __future__ import annotations

from typing import ClassVar

FAILED, MISCONFIGURED, REFUSED = 1, 2, 3


class LeewayError(Exception):
    """An error whose message says what is wrong, where, and what to do about it.

    Attributes:
        exit_status: status with which a process exits that ends because of it. 1: a restart may help; 2: the configuration
            must be corrected first; 3: the credentials are refused.
    """

    exit_status: ClassVar[int] = FAILED
