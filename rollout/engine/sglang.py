"""The HTTP client of one SGLang server: generation with version spans, and refits. The only module that speaks its API."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

RefitMode = Literal["drain", "in_place", "retract"]


class EngineError(Exception):
    """The server did not answer, or answered wrongly. Its request may be retried elsewhere; the server is suspect."""


class RefusedError(Exception):
    """The server is fine and the request is not (HTTP 400, or an id outside the vocabulary). Retrying is pointless."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: the full softmax at a temperature, so that the learner can compute the same probabilities."""

    temperature: float  # 0: greedy
    max_new_tokens: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True)
class VersionSpan:
    """Tokens [start, end) were generated with the weights of ``version``."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Response:
    """What came of one prompt. ``spans`` cover ``tokens`` without a gap."""

    tokens: list[int]  # the end or stop token included
    finish: Literal["stop", "length", "abort"]
    spans: list[VersionSpan]


class Engine:
    """One server.

    Args:
        url: http://host:port.
        session: shared; its own limits do not apply, every call has its timeout here.
        vocab_size: ids must lie in [0, vocab_size).
        timeout_s: limit of one generation or refit.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, vocab_size: int, timeout_s: float) -> None:
        self.url = url
        self._session = session
        self._vocab_size = vocab_size
        self._timeout_s = timeout_s

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """One response for each prompt, in order. Repeat a prompt to get several: faster than the server's own ``n``.

        Raises:
            RefusedError: an id outside the vocabulary (it would kill the server), or the server said 400.
            EngineError: no or no sound answer within the time limit.
        """
        self._require_ids(prompts)
        parameters = {
            "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(sampling.stop_ids),
        }
        answer = await self._post("/generate", {"input_ids": prompts, "sampling_params": parameters})
        if not isinstance(answer, list) or len(answer) != len(prompts):
            raise EngineError(f"{self.url}/generate: expected a list of {len(prompts)} responses")
        return [self._response(item) for item in answer]

    async def refit(self, version: int, path: Path, mode: RefitMode) -> float:
        """Loads the weights in a directory and labels them. Returns the seconds it took.

        drain: running requests end first, under the old weights; new ones wait. in_place: running requests go on with the
        new weights and their old KV cache (start the server with --disable-radix-cache, or prefixes stay old for ever).
        retract: they go on with their KV cache recomputed under the new weights, so that nothing old is left in them but
        the tokens themselves.

        Raises:
            EngineError: it failed. What the server then holds is unknown: restart it.
        """
        started = time.monotonic()
        try:
            try:
                await self._load(version, path, mode)
            except RefusedError:
                if mode != "drain":
                    raise
                # A health probe passes no gate of ours: one under way kept the server from dropping its cache.
                await self._load(version, path, "retract")
        except RefusedError as error:
            raise EngineError(f"refit to version {version} failed: {error}") from error
        if (label := await self.label()) != str(version):
            raise EngineError(f"{self.url}: weight_version is {label!r} after the refit to version {version}")
        return time.monotonic() - started

    async def _load(self, version: int, path: Path, mode: RefitMode) -> None:
        # Cached prefixes belong to the old weights, but the cache cannot be dropped under requests that use it.
        update = {"model_path": str(path), "weight_version": str(version), "flush_cache": mode != "in_place"}
        if mode != "drain":
            await self._post("/pause_generation", {"mode": mode})
        try:
            await self._post("/update_weights_from_disk", update)
        finally:
            if mode != "drain":
                await self._post("/continue_generation", {})

    async def label(self) -> str:
        """The label of the weights it holds; "default" before the first refit. Raises EngineError."""
        async with self._call("/model_info", timeout_s=10), self._get("/model_info", 10) as response:
            return str((await response.json())["weight_version"])

    async def require_health(self, timeout_s: float) -> None:
        """Makes it prove that it still generates: one token when idle, any token when busy. Takes about a second.

        Raises:
            EngineError: it does not, within the limit.
        """
        async with self._call("/health", timeout_s), self._get("/health", timeout_s) as response:
            if response.status != 200:
                raise EngineError(f"{self.url}/health: HTTP {response.status}")

    def _get(self, path: str, timeout_s: float) -> Any:
        return self._session.get(self.url + path, timeout=aiohttp.ClientTimeout(total=timeout_s))

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        limit = aiohttp.ClientTimeout(total=self._timeout_s)
        async with (
            self._call(path, self._timeout_s),
            self._session.post(self.url + path, json=body, timeout=limit) as response,
        ):
            text = await response.text()
            if response.status == 400:
                raise RefusedError(f"{self.url}{path}: HTTP 400: {text[:500]}")
            if response.status != 200:
                raise EngineError(f"{self.url}{path}: HTTP {response.status}: {text[:500]}")
            return json.loads(text) if text.startswith(("{", "[")) else text

    @contextlib.asynccontextmanager
    async def _call(self, path: str, timeout_s: float) -> AsyncIterator[None]:
        """Turns every way a call can fail into EngineError."""
        try:
            yield
        except TimeoutError as error:
            raise EngineError(f"{self.url}{path}: no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, ValueError, KeyError) as error:
            raise EngineError(f"{self.url}{path}: {type(error).__name__}: {error}") from error

    def _require_ids(self, prompts: Sequence[Sequence[int]]) -> None:
        for row, prompt in enumerate(prompts):
            if not prompt:
                raise RefusedError(f"prompts[{row}]: empty")
            if min(prompt) < 0 or max(prompt) >= self._vocab_size:
                wrong = next(token for token in prompt if not 0 <= token < self._vocab_size)
                raise RefusedError(
                    f"prompts[{row}]: token id {wrong} is outside the vocabulary [0, {self._vocab_size})"
                )

    def _response(self, item: dict[str, Any]) -> Response:
        try:
            meta, tokens = item["meta_info"], item["output_ids"]
            finish = meta["finish_reason"]["type"]
            spans = [VersionSpan(int(span["version"]), span["start"], span["end"]) for span in meta["weight_versions"]]
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self.url}/generate: malformed response ({type(error).__name__}: {error})") from error
        if finish not in ("stop", "length", "abort"):
            raise EngineError(f"{self.url}/generate: finish_reason {finish!r}")
        return Response(tokens, finish, [span for span in spans if span.end > span.start])
