"""What can go wrong between a worker and an engine: the request, the server's load, the server itself, or its set-up."""

from __future__ import annotations

from rollout.engine.observer import Failure
from runtime.errors import MISCONFIGURED, LeewayError


class EngineError(Exception):
    """A request without a usable answer. It may be retried; whether the server lives is for its /health to say.

    Attributes:
        failure: what it is counted as.
    """

    def __init__(self, message: str, failure: Failure = "malformed") -> None:
        super().__init__(message)
        self.failure: Failure = failure


class BusyError(EngineError):
    """The server has too much to do (HTTP 429 or 503). It is well: the request is to be sent again, later.

    Attributes:
        retry_after_s: when, as the server says; None when it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message, "busy")
        self.retry_after_s = retry_after_s


class WeightsError(EngineError):
    """The server's weights are not those that were loaded into it, whatever its /health says: it has to be refitted."""


class NotFiniteError(WeightsError):
    """The server's logits were not finite. Whatever it generated in the request is suspect, and so are its weights."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "nan")


class RefusedError(Exception):
    """The request is wrong and the server is fine (HTTP 400, 413 or 422). Sending it again is pointless.

    Attributes:
        too_large: the whole of it was too large (HTTP 413), so that any part of it may pass.
    """

    def __init__(self, message: str, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class UnattributedError(LeewayError):
    """A server that cannot say which version generated which token: no group of it could be used. A person has to act."""

    exit_status = MISCONFIGURED

    def __init__(self, url: str, missing: str) -> None:
        super().__init__(
            f"{url}: its answers have no {missing}, so nobody can say which version generated which token; engine.urls "
            "has to name SGLang servers of release 0.5.23 or newer, reached without a proxy that leaves out fields"
        )
