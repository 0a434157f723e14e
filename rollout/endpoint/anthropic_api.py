"""Anthropic's API: messages and the number of their tokens."""

from __future__ import annotations

from aiohttp import web

from rollout.endpoint.answered_call import AnsweredCall
from rollout.endpoint.anthropic_answer import MessageAnswer
from rollout.endpoint.anthropic_request import read_messages
from rollout.endpoint.episode_calls import EpisodeCalls
from rollout.endpoint.event_stream import error_event, send_events
from rollout.endpoint.request_body import read_body


class AnthropicApi:
    """The handlers of Anthropic's API.

    Args:
        calls: how requests find their episodes.
    """

    def __init__(self, calls: EpisodeCalls) -> None:
        self._calls = calls
        self._served = calls.served
        self._answered = AnsweredCall("anthropic", self._served.observer)

    def routes(self) -> list[web.RouteDef]:
        """Its paths and their handlers."""
        return [
            web.post("/v1/messages", self._answered(self._messages)),
            web.post("/v1/messages/count_tokens", self._answered(self._count)),
        ]

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        episode = self._calls.episode(request)
        body = await read_body(request)
        call, headers, answer = read_messages(body), self._calls.overridden(body), MessageAnswer(self._served.model)
        if body.flag("stream"):
            return await send_events(
                request,
                lambda on_delta: self._calls.limited(episode.chat(call, on_delta)),
                answer,
                headers,
                lambda error: error_event(self._answered.as_api_error(error), "anthropic"),
            )
        return web.json_response(answer.whole(await self._calls.limited(episode.chat(call))), headers=headers)

    async def _count(self, request: web.Request) -> web.StreamResponse:
        self._calls.episode(request)
        call = read_messages(await read_body(request), counted=True)
        return web.json_response({"input_tokens": self._served.count(call)})
