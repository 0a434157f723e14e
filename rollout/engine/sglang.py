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

from rollout.engine.errors import BusyError, EngineError, NotFiniteError, RefusedError, UnattributedError, WeightsError
from rollout.engine.prompt_limits import PromptLimits

RefitMode = Literal["drain", "in_place", "retract"]

_REFUSALS = (400, 413, 422)
_BUSY = (429, 503)

_NAN = "NaN happened"  # SGLang ends a response with this as the matched stop, and an end token in place of the bad one


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
        finish: why it ended: an end or stop token, the length limit, or the server aborted it. "too_long", "refused": there
            is none, because the prompt leaves no room for it, or the server refuses the prompt.
        spans: which version generated which tokens; they cover ``tokens`` without a gap.
        stopped_by: the end or stop token that ended it, as the server says; None when it ended otherwise.
        message: why the server aborted it, in its words, or why there is none.
    """

    tokens: list[int]
    finish: Literal["stop", "length", "abort", "too_long", "refused"]
    spans: list[VersionSpan]
    stopped_by: int | None = None
    message: str = ""


class Engine:
    """The client of one server.

    Args:
        url: http://host:port.
        session: shared; its own timeouts do not apply, every call sets one.
        limits: what prompts it takes, as far as that is known before it is asked.
        timeout_s: limit of one generation.
        refit_timeout_s: limit of one refit.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        limits: PromptLimits,
        timeout_s: float,
        refit_timeout_s: float = 600.0,
    ) -> None:
        self.url = url
        self._session = session
        self._limits = limits
        self._timeout_s = timeout_s
        self._refit_timeout_s = refit_timeout_s

    async def learn_limits(self) -> None:
        """Asks the server which prompts it takes. One that does not say refuses them one by one."""
        with contextlib.suppress(EngineError):
            async with self._call("/server_info", 10), self._get("/server_info", 10) as response:
                info = await response.json()
                if response.status == 200 and isinstance(info, dict):
                    self._limits = self._limits.as_told(info)

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates one response for each prompt, in order. A prompt that cannot be answered voids no other's response.

        Repeat a prompt to get several responses to it: faster than the server's own parameter ``n``.

        Args:
            prompts: token ids of each prompt, at least one.
            sampling: how tokens are drawn.

        Raises:
            BusyError: the server has too much to do.
            EngineError: no answer within the time limit, or a malformed one.
            WeightsError: the server has other weights than those that were loaded into it.
            NotFiniteError: the server ended a response because its logits were not finite.
            UnattributedError: the server does not say which version generated what.
        """
        problems = [self._limits.problem(prompt, sampling.max_new_tokens) for prompt in prompts]
        good = [prompt for prompt, problem in zip(prompts, problems, strict=True) if problem is None]
        answers = iter(await self._generate_split(good, sampling) if good else [])
        return [
            next(answers) if problem is None else Response([], problem.finish, [], message=problem.message)
            for problem in problems
        ]

    async def _generate_split(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates responses; those that are refused together are asked in two halves, until the offender is alone."""
        try:
            return await self._generate(prompts, sampling)
        except RefusedError as error:
            middle = len(prompts) // 2 if error.too_large else _boundary(prompts)
            if not middle:
                return [Response([], "refused", [], message=str(error)) for _ in prompts]
        return [
            *await self._generate_split(prompts[:middle], sampling),
            *await self._generate_split(prompts[middle:], sampling),
        ]

    async def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        parameters = {
            "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(sampling.stop_ids),
        }
        body = {"input_ids": prompts, "sampling_params": parameters}
        answer = await self._post("/generate", body, self._timeout_s)
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
            await self._post("/pause_generation", {"mode": mode}, self._refit_timeout_s)
        try:
            await self._post("/update_weights_from_disk", update, self._refit_timeout_s)
        finally:
            if mode != "drain":
                await self._post("/continue_generation", {}, self._refit_timeout_s)

    async def label(self) -> str:
        """Reads the label of the server's weights; "default" before the first refit.

        Raises:
            EngineError: the server did not answer.
            UnattributedError: it has no labels.
        """
        async with self._call("/model_info", timeout_s=10), self._get("/model_info", 10) as response:
            info = await response.json()
            if response.status != 200 or not isinstance(info, dict):
                raise EngineError(f"{self.url}/model_info: HTTP {response.status}: {info!r:.500}", "status")
        if info.get("weight_version") is None:
            raise UnattributedError(self.url, "weight_version at /model_info")
        return str(info["weight_version"])

    async def require_health(self, timeout_s: float) -> None:
        """Makes the server prove that it still generates: one token when idle, any token when busy. Takes about a second.

        Raises:
            EngineError: it did not within the limit.
        """
        async with self._call("/health", timeout_s), self._get("/health", timeout_s) as response:
            if response.status != 200:
                raise EngineError(f"{self.url}/health: HTTP {response.status}", "status")

    def _get(self, path: str, timeout_s: float) -> Any:
        return self._session.get(self.url + path, timeout=aiohttp.ClientTimeout(total=timeout_s))

    async def _post(self, path: str, body: dict[str, Any], timeout_s: float) -> Any:
        limit = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            self._call(path, timeout_s),
            self._session.post(self.url + path, json=body, timeout=limit) as response,
        ):
            text = await response.text()
            said = f"{self.url}{path}: HTTP {response.status}: {text[:500]}"
            if response.status in _REFUSALS:
                raise RefusedError(said, too_large=response.status == 413)
            if response.status in _BUSY:
                raise BusyError(said, _seconds(response.headers.get("Retry-After", "")))
            if response.status != 200:
                raise EngineError(said, "status")
            return json.loads(text) if text.startswith(("{", "[")) else text

    @contextlib.asynccontextmanager
    async def _call(self, path: str, timeout_s: float) -> AsyncIterator[None]:
        """Converts every error of a call to EngineError."""
        try:
            yield
        except TimeoutError as error:
            raise EngineError(f"{self.url}{path}: no answer within {timeout_s:g} s", "timeout") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise EngineError(f"{self.url}{path}: {type(error).__name__}: {error}", "connection") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise EngineError(f"{self.url}{path}: {type(error).__name__}: {error}") from error

    def _response(self, item: dict[str, Any]) -> Response:
        try:
            meta, reason = item["meta_info"], item["meta_info"]["finish_reason"]
            finish, matched = reason["type"], reason.get("matched")
            if finish == "abort":  # perhaps before it had a token
                return Response(list(item.get("output_ids") or []), finish, [], message=str(reason.get("message", "")))
            tokens = [int(token) for token in item["output_ids"]]
            if tokens and not meta.get("weight_versions"):
                raise UnattributedError(f"{self.url}/generate", "meta_info.weight_versions")
            spans = [_span(span, self.url) for span in meta["weight_versions"]]
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
        spans = [span for span in spans if span.end > span.start]
        if [0, *(span.end for span in spans)] != [*(span.start for span in spans), len(tokens)]:
            ranges = [(span.start, span.end) for span in spans]
            raise EngineError(
                f"{self.url}/generate: spans {ranges} do not cover the {len(tokens)} tokens of a response once each: a token "
                "in no span would carry no loss",
                "spans",
            )
        return Response(tokens, finish, spans, stopped_by)


def _span(span: dict[str, Any], url: str) -> VersionSpan:
    """Returns a span of SGLang's; raises WeightsError if its weights have no label of ours."""
    version = str(span["version"])
    if not version.isdecimal():
        raise WeightsError(f"{url}: answered with weights labelled {version!r}, which no refit loaded", "restart")
    return VersionSpan(int(version), int(span["start"]), int(span["end"]))


def _boundary(prompts: Sequence[Sequence[int]]) -> int | None:
    """Returns the index nearest to the middle at which another prompt begins; None if all are the same one."""
    begins = [index for index in range(1, len(prompts)) if prompts[index] != prompts[index - 1]]
    return min(begins, key=lambda index: abs(2 * index - len(prompts)), default=None)


def _seconds(retry_after: str) -> float | None:
    """Reads a Retry-After header in seconds; None for one that is absent, or a date."""
    return float(retry_after) if retry_after.isdecimal() else None
