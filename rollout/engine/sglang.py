"""The client of one SGLang server: generation with version spans, in batches or streamed, and refits."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from rollout.engine.adapters import ServerAdapters, attributed, named
from rollout.engine.answers import StreamedAnswer, read_response
from rollout.engine.calls import ServerCalls
from rollout.engine.errors import EngineError, RefusedError
from rollout.engine.load import EngineLoad, read_load
from rollout.engine.prompt_limits import PromptLimits
from rollout.engine.response import Response
from rollout.engine.routing_reader import ASKED, RoutingReader
from rollout.engine.sampling import Sampling
from rollout.engine.weights import ServerWeights

_ABORT_S = 10.0
_ASK_S = 30.0
_PIECE = 8  # tokens in one piece of a stream that nobody watches: a dead server takes as many with it, and no more

Arrived = Callable[[Sequence[int], int | None], bool]


class Engine:
    """The client of one server.

    Args:
        url: http://host:port.
        session: shared; its own timeouts do not apply, every call sets one.
        limits: what prompts it takes, as far as that is known before it is asked.
        timeout_s: limit of one generation; of a streamed one, longest time without a token.
        refit_timeout_s: limit of one refit.
        routing: reads which experts tokens were sent to; None: it does not ask for them.

    Attributes:
        weights: loads weights into the server.
        adapters: loads adapters into it, beside the weights that it was started with.
    """

    def __init__(
        self,
        url: str,
        session: aiohttp.ClientSession,
        limits: PromptLimits,
        timeout_s: float,
        refit_timeout_s: float = 600.0,
        routing: RoutingReader | None = None,
    ) -> None:
        self.url = url
        self._calls = ServerCalls(url, session)
        self._limits = limits
        self._timeout_s = timeout_s
        self._routing = routing
        self._asked = {} if routing is None else ASKED
        self._aborting: set[asyncio.Task[None]] = set()
        self.weights = ServerWeights(self._calls, refit_timeout_s)
        self.adapters = ServerAdapters(self._calls, refit_timeout_s)

    async def learn_limits(self) -> None:
        """Asks the server which prompts it takes. One that does not say refuses them one by one."""
        with contextlib.suppress(EngineError):
            status, info = await self._calls.get("/server_info", 10)
            if status == 200 and isinstance(info, dict):
                self._limits = self._limits.as_told(info)

    async def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Posts a short question to the server and returns the JSON of its answer.

        Raises:
            RefusedError, BusyError, EngineError: as ``generate`` does.
        """
        return await self._calls.post(path, body, _ASK_S)

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Response]:
        """Generates one response for each prompt, in order. A prompt that cannot be answered voids no other's response.

        Repeat a prompt to get several responses to it: faster than the server's own parameter ``n``.

        Args:
            prompts: token ids of each prompt, at least one.
            sampling: how tokens are drawn; its stop texts are not looked at.

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

    async def generate_one(
        self, prompt: Sequence[int], sampling: Sampling, arrived: Arrived, at_once: bool = False
    ) -> Response:
        """Generates one response, streamed.

        Args:
            prompt: token ids.
            sampling: how tokens are drawn; its stop texts are for ``arrived`` to find.
            arrived: called with new tokens, and the version that generated them; None for the last ones, whose versions are
                in the response that is returned. Once it has returned False the server is told to stop.
            at_once: report every token as it is made, instead of some together.

        Raises:
            BusyError, EngineError, WeightsError, NotFiniteError, UnattributedError: as ``generate`` does. What has arrived
                before is good, but not with a NotFiniteError.
        """
        if (problem := self._limits.problem(prompt, sampling.max_new_tokens)) is not None:
            return Response([], problem.finish, [], message=problem.message)
        request, answer = uuid.uuid4().hex, StreamedAnswer(self.url, self._routing)
        parameters = {**sampling.parameters(), "stream_interval": 1 if at_once else _PIECE}
        body = {"rid": request, "input_ids": list(prompt), "sampling_params": parameters, "stream": True, **self._asked}
        told = False
        adapter = self.adapters.begin()
        try:
            asked = body | named(adapter)
            async with contextlib.aclosing(self._calls.pieces("/generate", asked, self._timeout_s)) as pieces:
                async for piece in pieces:
                    wanted = arrived(*answer.take(attributed(piece, adapter, self.url)))
                    if answer.response is not None:
                        return answer.response
                    if not wanted and not told:
                        told = True
                        self._abort(request)
            raise EngineError(f"{self.url}/generate: the stream ended before its response", "connection")
        except RefusedError as error:
            await self.adapters.require(adapter)
            return Response([], "refused", [], message=str(error))
        finally:
            self.adapters.end(adapter)
            if answer.response is None:  # by itself the server would go on for two seconds
                self._abort(request)

    async def load(self) -> EngineLoad | None:
        """Asks how much the server has to do; None where it cannot say. Raises EngineError when it does not answer."""
        return await read_load(self._calls)

    async def require_health(self, timeout_s: float) -> None:
        """Makes the server prove that it still generates: one token when idle, any token when busy. Takes about a second.

        Raises:
            EngineError: it did not within the limit.
        """
        status, _ = await self._calls.get("/health", timeout_s)
        if status != 200:
            raise EngineError(f"{self.url}/health: HTTP {status}", "status")

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
        body: dict[str, Any] = {"input_ids": prompts, "sampling_params": sampling.parameters(), **self._asked}
        adapter = self.adapters.begin()
        try:
            answer = await self._calls.post("/generate", body | named(adapter), self._timeout_s)
        except RefusedError:
            await self.adapters.require(adapter)
            raise
        finally:
            self.adapters.end(adapter)
        if not isinstance(answer, list) or len(answer) != len(prompts):
            raise EngineError(f"{self.url}/generate: expected a list of {len(prompts)} responses")
        return [read_response(attributed(item, adapter, self.url), self.url, self._routing) for item in answer]

    def _abort(self, request: str) -> None:
        """Tells the server to stop a request. Nobody waits for it, and a server that is gone has stopped."""
        task = asyncio.create_task(self._tell_to_abort(request))
        self._aborting.add(task)
        task.add_done_callback(self._aborting.discard)

    async def _tell_to_abort(self, request: str) -> None:
        with contextlib.suppress(EngineError, RefusedError, RuntimeError):  # the last: the session is closed already
            await self._calls.post("/abort_request", {"rid": request}, _ABORT_S)


def _boundary(prompts: Sequence[Sequence[int]]) -> int | None:
    """Returns the index nearest to the middle at which another prompt begins; None if all are the same one."""
    begins = [index for index in range(1, len(prompts)) if prompts[index] != prompts[index - 1]]
    return min(begins, key=lambda index: abs(2 * index - len(prompts)), default=None)
