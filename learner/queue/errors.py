"""Errors of the queue."""

from __future__ import annotations

from typing import ClassVar

from runtime.errors import MISCONFIGURED, LeewayError


class QueueError(LeewayError):
    """The queue cannot do what it was asked to. The message says what to do."""


class UnavailableError(QueueError):
    """Redis does not answer, is loading, or cannot write. Whether the last call took effect is unknown."""


class StillAwayError(UnavailableError):
    """Redis does not answer yet, and its outage has not reached its limit: the caller does something else and tries again."""


class NeverStartedError(QueueError):
    """No embedded Redis has ever run in a run's directory: there is no queue yet."""


class MemoryFullError(UnavailableError):
    """Redis has reached its maxmemory and takes no more data."""


class HaltedError(StillAwayError):
    """The data in Redis is not the run's newest: nothing is accepted or committed until an operator has decided."""


class MovedError(HaltedError):
    """The run has moved and goes on elsewhere: a learner that starts here ends, and is not to be started again."""

    exit_status: ClassVar[int] = MISCONFIGURED


class ServedError(QueueError):
    """Another server runs on the data that an embedded one was to be started on."""


class RefusedCredentialsError(QueueError):
    """Redis does not accept user and password, or the password file cannot be read."""


class FencedError(QueueError):
    """A newer learner has started: this one may change nothing more and must end."""
