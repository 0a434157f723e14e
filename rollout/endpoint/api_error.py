"""Errors that callers get, in the form of the API that they speak."""

from __future__ import annotations

from typing import Any, Literal

Api = Literal["openai", "anthropic", "episodes"]

# Status -> (OpenAI's type, Anthropic's type).
_TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    409: ("conflict_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    503: ("server_error", "overloaded_error"),
}
_OTHERWISE = ("server_error", "api_error")


class ApiError(Exception):
    """A call that is answered with an error.

    Attributes:
        status: HTTP status.
        message: what is wrong, and what to do.
        param: the field of the call that it is about; None where it is about none.
        code: a name for programs, such as "episode_limit".
        retry: whether the same call may succeed later; client libraries obey that.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry = retry

    def body(self, api: Api) -> dict[str, Any]:
        """The JSON body of the answer: OpenAI's form, or Anthropic's."""
        kind = _TYPES.get(self.status, _OTHERWISE)
        if api == "anthropic":
            return {"type": "error", "error": {"type": kind[1], "message": self.message, "code": self.code}}
        return {"error": {"message": self.message, "type": kind[0], "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the answer; without x-should-retry, client libraries repeat calls of some statuses."""
        return {"x-should-retry": "true" if self.retry else "false"}


def bad(param: str, value: Any, expected: str) -> ApiError:
    """Returns the error of a field that is not what it should be."""
    shown = f"{value!r:.80}"
    return ApiError(400, f"{param} = {shown}: expected {expected}", param=param, code="invalid_value")


def unsupported(param: str, value: Any, why: str) -> ApiError:
    """Returns the error of a field that would change the result, and that the endpoint does not have."""
    shown = f"{value!r:.80}"
    return ApiError(400, f"{param} = {shown}: {why}; leave it out", param=param, code="unsupported_parameter")
