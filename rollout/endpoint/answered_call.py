"""One call from its first byte to its last: whatever happens, the caller gets an answer in the form of its API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from rollout.endpoint.api_error import Api, ApiError
from rollout.endpoint.observer import EndpointObserver, Outcome
from rollout.engine.errors import EngineError
from rollout.episodes.errors import ChatRequestError, EngineAbortedError, EpisodeLimitError, UnknownEpisodeError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AnsweredCall:
    """Wraps the handlers of one API: converts errors to its form, and counts every call by how it ended.

    Args:
        api: whose form errors have.
        observer: counts.
    """

    def __init__(self, api: Api, observer: EndpointObserver) -> None:
        self._api: Api = api
        self._observer = observer

    def __call__(self, handle: Handler) -> Handler:
        """Returns a handler that always answers."""

        async def call(request: web.Request) -> web.StreamResponse:
            try:
                response = await handle(request)
            except (asyncio.CancelledError, ConnectionError):
                self._observer.called(self._api, "hung_up")
                raise
            except Exception as error:  # noqa: BLE001 - the boundary to other processes: logged and counted
                api_error = self.as_api_error(error)
                return web.json_response(api_error.body(self._api), status=api_error.status, headers=api_error.headers)
            self._observer.called(self._api, "answered")
            return response

        return call

    def as_api_error(self, error: Exception) -> ApiError:
        """Returns an error in the form that the caller gets, and counts the call."""
        made, outcome = _converted(error)
        if outcome == "failed":
            structlog.get_logger().error("a call of the endpoint failed", exc_info=error)
        self._observer.called(self._api, outcome)
        return made


def _converted(error: Exception) -> tuple[ApiError, Outcome]:
    match error:
        case ApiError():
            return error, "unauthorized" if error.status == 401 else "refused"
        case UnknownEpisodeError():
            return ApiError(401, str(error), code="invalid_api_key"), "unauthorized"
        case EpisodeLimitError():
            return ApiError(400, str(error), code="episode_limit"), "over_limit"
        case ChatRequestError():
            return ApiError(400, str(error), code="invalid_value"), "refused"
        case EngineAbortedError() | EngineError():
            return ApiError(503, f"no engine could answer: {error}", code="engine", retry=True), "failed"
        case web.HTTPException():
            return ApiError(error.status, error.text or error.reason), "refused"
    return ApiError(500, f"the endpoint failed: {type(error).__name__}; the worker's log says more"), "failed"
