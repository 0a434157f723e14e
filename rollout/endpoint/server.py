"""The endpoint's HTTP server: one application on a unix socket, for the worker's own processes, and on a TCP address."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from aiohttp import web

from rollout.config import EndpointConfig
from rollout.endpoint.addresses import bound_tcp, bound_unix, told_url
from rollout.endpoint.answered_call import AnsweredCall
from rollout.endpoint.anthropic_api import AnthropicApi
from rollout.endpoint.api_error import ApiError
from rollout.endpoint.episode_calls import EpisodeCalls
from rollout.endpoint.openai_api import OpenAiApi
from rollout.endpoint.remote_episodes import RemoteEpisodes
from rollout.endpoint.request_body import MAX_BODY_BYTES
from rollout.endpoint.served_policy import ServedPolicy
from runtime.settings import SettingsError

_BACKLOG = 1024  # connections of agents that all begin at once
_KEEPALIVE_S = 75.0
_END_S = 1.0  # for calls under way when the endpoint closes: their episodes end anyway


class Endpoint:
    """An endpoint that is being served. Open it with ``Endpoint.open``.

    Attributes:
        url: base URL for client libraries of OpenAI's kind, with /v1 at its end; Anthropic's want it without.
        socket: unix socket on which it is served too, under the same paths.
    """

    def __init__(self, url: str, socket: Path) -> None:
        self.url = url
        self.socket = socket

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, config: EndpointConfig, served: ServedPolicy, socket: Path) -> AsyncIterator[Endpoint]:
        """Serves until the block ends.

        Args:
            config: where it listens.
            served: what it serves.
            socket: path of its unix socket; a file that a worker before left there is replaced.

        Raises:
            SettingsError: an address is none, or cannot be bound; the token file cannot be read.
        """
        token = None if config.remote_token_file is None else _read_token(config.remote_token_file)
        with bound_tcp(config.listen) as tcp, bound_unix(socket) as unix:
            url = told_url(config, tcp)
            runner = web.AppRunner(
                _application(config, served, token, url),
                handler_cancellation=True,  # who hangs up does not want the answer any more
                access_log=None,
                keepalive_timeout=_KEEPALIVE_S,
                shutdown_timeout=_END_S,
            )
            await runner.setup()
            try:
                for listening in (tcp, unix):
                    await web.SockSite(runner, listening, backlog=_BACKLOG).start()
                structlog.get_logger().info("the endpoint is up", url=url, socket=str(socket))
                yield cls(url, socket)
            finally:
                await runner.cleanup()


def _application(config: EndpointConfig, served: ServedPolicy, token: str | None, url: str) -> web.Application:
    calls = EpisodeCalls(config, served)
    application = web.Application(client_max_size=MAX_BODY_BYTES)
    application.add_routes([web.get("/healthz", _healthy)])
    for api in (OpenAiApi(calls), AnthropicApi(calls), RemoteEpisodes(served, token, url)):
        application.add_routes(api.routes())
    answered = AnsweredCall("openai", served.observer)
    application.add_routes([web.route("*", "/{path:.*}", answered(_nothing_here))])
    return application


async def _healthy(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok\n")


async def _nothing_here(request: web.Request) -> web.StreamResponse:
    raise ApiError(
        404,
        f"there is no {request.method} {request.path:.100}; there are POST /v1/chat/completions, /v1/completions, "
        "/v1/messages, /v1/messages/count_tokens, /v1/episodes and /v1/episodes/KEY/reward, and GET /v1/models and /healthz",
        code="unknown_url",
    )


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"endpoint.remote_token_file = {path}: {error.strerror}") from error
    if not token:
        raise SettingsError(f"endpoint.remote_token_file = {path}: the file is empty")
    return token
