"""OpenAI's API: chat completions, completions and models."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from rollout.endpoint.answered_call import AnsweredCall
from rollout.endpoint.api_error import ApiError
from rollout.endpoint.chat_answer import ChatAnswer
from rollout.endpoint.chat_request import Streaming, read_chat
from rollout.endpoint.completion import CompletionAnswer, read_completion
from rollout.endpoint.episode_calls import EpisodeCalls
from rollout.endpoint.event_stream import PiecewiseAnswer, Start, error_event, send_events
from rollout.endpoint.request_body import read_body

_NO_RESPONSES = (
    "this endpoint has no Responses API; use chat completions. In openai-agents: set_default_openai_api('chat_completions'), "
    "or OpenAIChatCompletionsModel"
)


class OpenAiApi:
    """The handlers of OpenAI's API.

    Args:
        calls: how requests find their episodes.
    """

    def __init__(self, calls: EpisodeCalls) -> None:
        self._calls = calls
        self._served = calls.served
        self._answered = AnsweredCall("openai", self._served.observer)
        self._created = int(time.time())

    def routes(self) -> list[web.RouteDef]:
        """Its paths and their handlers."""
        return [
            web.post("/v1/chat/completions", self._answered(self._chat)),
            web.post("/v1/completions", self._answered(self._complete)),
            web.post("/v1/responses", self._answered(self._responses)),
            web.get("/v1/models", self._answered(self._models)),
            web.get("/v1/models/{model:.+}", self._answered(self._model)),
        ]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        episode = self._calls.episode(request)
        body = await read_body(request)
        call, streaming, headers = read_chat(body), Streaming.read(body), self._calls.overridden(body)
        answer = ChatAnswer(self._served.model, streaming.with_usage)
        if streaming.wanted:
            return await self._stream(request, lambda on_delta: episode.chat(call, on_delta), answer, headers)
        return web.json_response(answer.whole(await self._calls.limited(episode.chat(call))), headers=headers)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        episode = self._calls.episode(request)
        body = await read_body(request)
        asked, streaming, headers = read_completion(body), Streaming.read(body), self._calls.overridden(body)
        tokens = self._served.encode(asked.prompt) if isinstance(asked.prompt, str) else asked.prompt
        options: dict[str, Any] = {"max_new_tokens": asked.max_tokens, "stop": asked.stop}
        answer = CompletionAnswer(self._served.model, streaming.with_usage)
        if streaming.wanted:
            start: Start = lambda on_delta: episode.generate(tokens, on_delta=on_delta, **options)  # noqa: E731
            return await self._stream(request, start, answer, headers)
        generated = await self._calls.limited(episode.generate(tokens, **options))
        return web.json_response(answer.whole(generated), headers=headers)

    async def _stream(
        self, request: web.Request, start: Start, answer: PiecewiseAnswer, headers: dict[str, str]
    ) -> web.StreamResponse:
        return await send_events(
            request,
            lambda on_delta: self._calls.limited(start(on_delta)),
            answer,
            headers,
            lambda error: error_event(self._answered.as_api_error(error), "openai"),
        )

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        raise ApiError(404, _NO_RESPONSES, code="no_responses_api")

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self._calls.episode(request)
        model = self._served.model
        listed = {"object": "list", "data": [self._described()], "has_more": False, "first_id": model, "last_id": model}
        return web.json_response(listed)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._calls.episode(request)
        if request.match_info["model"] != self._served.model:
            raise ApiError(404, f"there is one model, {self._served.model!r}", param="model", code="model_not_found")
        return web.json_response(self._described())

    def _described(self) -> dict[str, Any]:
        """The model, with the fields that OpenAI's clients read and those that Anthropic's read."""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._created))
        ours = {"id": self._served.model, "object": "model", "created": self._created, "owned_by": "leeway"}
        return ours | {"type": "model", "display_name": self._served.model, "created_at": when}
