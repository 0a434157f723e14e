"""The HTTP client of one SGLang server: generation with version spans, and refits. Only this module knows its API."""

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

_NAN = "NaN happened"  # SGLang ends a response with this as the matched stop, and an end token in place of the bad one


class EngineError(Exception):
    """The server did not answer, or answered wrongly. Its request may be retried elsewhere; the server is suspect."""


class NotFiniteError(EngineError):
    """The server's logits were not finite. Whatever it generated in the request is suspect, and so are its weights."""


class RefusedError(Exception):
    """The request is wrong and the server is fine (HTTP 400, or an id outside the vocabulary). Retrying is pointless."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters: the full softmax at a temperature, whose probabilities the learner can compute.

    Attributes:
        temperature: 0: greedy.
        max_new_tokens: largest number of tokens in a response.
        stop_ids: token ids that end a response.
    """

    temperature: float
    max_new_tokens: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True)
class VersionSpan:
    """A range [start, end) of response tokens that were generated with the weights of ``version``."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Response:
    """One response to a prompt.

    Attributes:
        tokens: token ids, the end or stop token included.
        finish: why it ended: an end or stop token, the length limit, or the server aborted it.
        spans: which version generated which tokens; they cover ``tokens`` without a gap.
        stopped_by: the end or stop token that ended it, as the server says; None when it ended otherwise.
        message: why the server aborted it, in its words.
    """

    tokens: list[int]
    finish: Literal["stop", "length", "abort"]
    spans: list[VersionSpan]
    stopped_by: int | None = None
    message: str = ""


class Engine:
    """The client of one server.

    Args:
        url: http://host:port.
        session: shared; its own timeouts do not apply, every call sets one.
        vocab_size: ids must lie in [0, vocab_size).
        timeout_s: limit of one generation or refit.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, vocab_size: int, timeout_s: float) -> None:
        self.url = url
        self._session = session
        self._vocab_size = vocab_size
        self._timeout_s = timeout_s

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates one response for each prompt, in order.

        Repeat a prompt to get several responses to it: faster than the server's own parameter ``n``.

        Args:
            prompts: token ids of each prompt, at least one.
            sampling: how tokens are drawn.

        Raises:
            RefusedError: an id is outside the vocabulary (it would kill the server), or the server answered HTTP 400.
            EngineError: no answer within the time limit, or a malformed one.
            NotFiniteError: the server ended a response because its logits were not finite.
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

        Args:
            version: the label.
            path: directory of the weights, which the server can read.
            mode: "drain": running requests end first, under the old weights, and new ones wait. "in_place": running requests
                continue with the new weights and their old KV cache (start the server with --disable-radix-cache, or cached
                prefixes stay old for ever). "retract": running requests continue with their KV cache recomputed under the
                new weights, so that only their tokens come from the old ones.

        Raises:
            EngineError: it failed, and the server's weights are unknown: restart it.
        """
        started = time.monotonic()
        try:
            try:
                await self._load(version, path, mode)
            except RefusedError:
                if mode != "drain":
                    raise
                # Health probes do not pass the drain gate: one under way kept the server from dropping its cache.
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
        """Reads the label of the server's weights; "default" before the first refit. Raises EngineError."""
        async with self._call("/model_info", timeout_s=10), self._get("/model_info", 10) as response:
            return str((await response.json())["weight_version"])

    async def require_health(self, timeout_s: float) -> None:
        """Makes the server prove that it still generates: one token when idle, any token when busy. Takes about a second.

        Raises:
            EngineError: it did not within the limit.
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
        """Converts every error of a call to EngineError."""
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
            meta, reason = item["meta_info"], item["meta_info"]["finish_reason"]
            finish, matched = reason["type"], reason.get("matched")
            if finish == "abort":  # perhaps before it had a token
                return Response(list(item.get("output_ids") or []), finish, [], message=str(reason.get("message", "")))
            tokens = item["output_ids"]
            spans = [VersionSpan(int(span["version"]), span["start"], span["end"]) for span in meta["weight_versions"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EngineError(f"{self.url}/generate: malformed response ({type(error).__name__}: {error})") from error
        if finish not in ("stop", "length"):
            raise EngineError(f"{self.url}/generate: finish_reason {finish!r}")
        if matched == _NAN:
            raise NotFiniteError(f"{self.url}/generate: finish_reason {reason!r}: its logits were not finite")
        if isinstance(matched, str):  # we send no stop strings
            raise EngineError(
                f"{self.url}/generate: finish_reason {reason!r}: ended for a reason that was not asked for"
            )
        stopped_by = matched if finish == "stop" and isinstance(matched, int) else None
        return Response(tokens, finish, [span for span in spans if span.end > span.start], stopped_by)
