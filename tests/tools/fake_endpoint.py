"""The part of a worker's endpoint that hosts use, with scripted answers, on a unix socket and on TCP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

from rollout.environments.access import EpisodeAccess


class FakeEndpoint:
    """An endpoint of one episode, whose key is "key".

    Attributes:
        bodies: of all calls, with their paths.
        answer: content of every assistant message.
        over: whether the episode has reached a limit.
    """

    def __init__(self) -> None:
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.answer = "It is 4."
        self.over = False
        self.access = EpisodeAccess("", "", "key", "policy", [1, 2, 3])

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, directory: Path) -> AsyncIterator[FakeEndpoint]:
        """Listens until the block ends."""
        endpoint = cls()
        app = web.Application()
        app.router.add_post("/v1/{call:.*}", endpoint._called)
        runner = web.AppRunner(app)
        await runner.setup()
        socket = str(directory / "s")
        await web.UnixSite(runner, socket).start()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = next(address[1] for address in runner.addresses if isinstance(address, tuple))
        endpoint.access = EpisodeAccess(f"http://127.0.0.1:{port}/v1", socket, "key", "policy", [1, 2, 3])
        yield endpoint
        await runner.cleanup()

    async def _called(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer key"
        self.bodies.append((request.match_info["call"], await request.json()))
        if self.over:
            error = {"message": "turns = 3", "type": "invalid_request_error", "param": None, "code": "episode_limit"}
            return web.json_response({"error": error}, status=400)
        head: dict[str, Any] = {"id": "1", "created": 0, "model": "policy"}
        leeway = {"token_ids": [8, 9], "prompt_tokens": 3, "versions": [[7, 0, 2]], "segment": 0, "continued": False}
        if request.match_info["call"] == "completions":
            choice: dict[str, Any] = {"index": 0, "text": self.answer, "finish_reason": "stop", "logprobs": None}
        else:
            message = {"role": "assistant", "content": self.answer}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return web.json_response({**head, "object": "x", "choices": [choice], "leeway": leeway})
