"""The policy as a host sees it: a client of the worker's endpoint, over its unix socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rollout.environments.access import EpisodeAccess
from rollout.environments.unix_http import post
from rollout.tasks import TaskError
from rollout.tasks.policy import EpisodeOverError, Generation

_OVER = "episode_limit"  # code of the endpoint's error at a limit


class PolicyError(Exception):
    """A call that the endpoint refused; the message is the endpoint's own."""


class HttpPolicy:
    """The policy within one episode; see ``rollout.tasks.policy.EpisodePolicy``."""

    def __init__(self, access: EpisodeAccess) -> None:
        self.base_url = access.base_url
        self.api_key = access.api_key
        self.model = access.model
        self.prompt_tokens: Sequence[int] = list(access.prompt_tokens)
        self.socket = access.socket
        self._client: Any = None

    async def generate(
        self, tokens: Sequence[int], *, max_new_tokens: int | None = None, stop: Sequence[str] = ()
    ) -> Generation:
        """Generates after ``tokens``. Raises EpisodeOverError, PolicyError and OSError."""
        body = {"model": self.model, "prompt": list(tokens), "max_tokens": max_new_tokens, "stop": list(stop)}
        answer = await self._call("/v1/completions", body)
        choice, known = answer["choices"][0], answer["leeway"]
        versions = [(version, start, end) for version, start, end in known["versions"]]
        finish = "length" if choice["finish_reason"] == "length" else "stop"
        return Generation(known["token_ids"], choice["text"], finish, versions)

    async def chat(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Generates the next assistant message. Raises EpisodeOverError, PolicyError and OSError."""
        body = {"model": self.model, "messages": list(messages), **options}
        if tools:
            body["tools"] = list(tools)
        answer = await self._call("/v1/chat/completions", body)
        return answer["choices"][0]["message"]

    def openai(self) -> Any:
        """Returns an ``openai.AsyncOpenAI`` of this episode. Raises TaskError where the package is not installed."""
        if self._client is None:
            self._client = async_client(self.api_key, self.socket)
        return self._client

    async def close(self) -> None:
        """Closes the client that ``openai`` returned, if it did."""
        if self._client is not None:
            await self._client.close()

    async def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        status, answer = await post(self.socket, path, self.api_key, body)
        if status == 200:
            return answer
        error = answer.get("error") or {}
        message = str(error.get("message", answer))
        raise EpisodeOverError(message) if error.get("code") == _OVER else PolicyError(f"HTTP {status}: {message}")


def async_client(key: str, socket: str) -> Any:
    """Returns an ``openai.AsyncOpenAI`` whose calls go through a unix socket. Raises TaskError without the package."""
    try:
        import httpx
        import openai
    except ImportError as error:
        raise _missing(error) from error
    client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), timeout=None)
    return openai.AsyncOpenAI(api_key=key, base_url="http://worker/v1", http_client=client, timeout=None, max_retries=0)


def blocking_client(key: str, socket: str) -> Any:
    """Returns an ``openai.OpenAI``, for agents that are no coroutines. Raises TaskError without the package."""
    try:
        import httpx
        import openai
    except ImportError as error:
        raise _missing(error) from error
    client = httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=None)
    return openai.OpenAI(api_key=key, base_url="http://worker/v1", http_client=client, timeout=None, max_retries=0)


def _missing(error: ImportError) -> TaskError:
    return TaskError(
        f"an OpenAI client was asked for and cannot be made: {error}; install openai in the environment of task.python, or "
        "use policy.chat and policy.generate, which need nothing"
    )
