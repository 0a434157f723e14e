"""The base class of errors that end a process with one clear line instead of a traceback."""

from __future__ import annotations

from typing import ClassVar

FAILED, MISCONFIGURED, REFUSED = 1, 2, 3


class LeewayError(Exception):
    """An error whose message says what is wrong, where, and what to do about it.

    Attributes:
        exit_status: what a process that it ends exits with. 1: try again may help; 2: something must be mended in the
            configuration first; 3: the credentials are refused.
    """

    exit_status: ClassVar[int] = FAILED
