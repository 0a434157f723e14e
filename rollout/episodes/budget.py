"""What is left of an episode's limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from rollout.config import EpisodeLimits
from rollout.episodes.errors import EpisodeLimitError, Limit


def bounded_limits(limits: EpisodeLimits, max_response_context_tokens: int) -> EpisodeLimits:
    """Returns limits under which no episode has more tokens than the run takes.

    Args:
        limits: as set.
        max_response_context_tokens: as the gateway says (DescribeRun); 0: it does not say.
    """
    if not max_response_context_tokens:
        return limits
    tokens = min(limits.tokens or max_response_context_tokens, max_response_context_tokens)
    return limits.model_copy(update={"tokens": tokens})


class EpisodeBudget:
    """The limits of one episode, and what its calls have used of them.

    Args:
        limits: turns, tokens and seconds; the seconds count from now on.

    Attributes:
        reached: the limit that was reached first; None if none was.
    """

    def __init__(self, limits: EpisodeLimits) -> None:
        self._limits = limits
        self._turns = 0
        self._granted: dict[int, int] = {}  # tokens of each segment that has a call under way, as many as it may become
        self._changed = asyncio.Event()
        self.deadline = asyncio.get_running_loop().time() + limits.seconds
        self.reached: Limit | None = None

    def start_clock(self) -> None:
        """Lets the seconds count from now on."""
        self.deadline = asyncio.get_running_loop().time() + self._limits.seconds

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Counts a call as a turn, unless it fails, and ends it when the seconds are over.

        Raises:
            EpisodeLimitError: there is no turn left, or no time.
        """
        if self._turns >= self._limits.turns:
            raise self._error("turns", f"{self._limits.turns} turns")
        self._turns += 1
        time = asyncio.timeout_at(self.deadline)
        try:
            async with time:
                yield
        except BaseException as error:
            self._turns -= 1
            if isinstance(error, TimeoutError) and time.expired():
                raise self._error("seconds", f"{self._limits.seconds:g} s") from error
            raise

    @contextlib.asynccontextmanager
    async def tokens(
        self, segment: int, prompt: int, wanted: int, used: Callable[[], dict[int, int]]
    ) -> AsyncIterator[int]:
        """Grants tokens to a call: as many as it wants, or what is left. Waits for calls under way that may give some back.

        Args:
            segment: number of the segment that the call makes longer.
            prompt: tokens of the call's whole context.
            wanted: largest number of generated tokens.
            used: returns the tokens of each segment by number.

        Raises:
            EpisodeLimitError: nothing is left.
        """
        while (left := self._left(segment, prompt, used())) < wanted and self._granted:
            self._changed.clear()
            await self._changed.wait()
        if left < 1:
            raise self._error("tokens", f"{self._limits.tokens} tokens, this call's context alone has {prompt}")
        granted = min(wanted, left)
        self._granted[segment] = prompt + granted
        try:
            yield granted
        finally:
            del self._granted[segment]
            self._changed.set()

    def cut_off(self, granted: int, wanted: int) -> None:
        """Takes note that a length limit cut an answer off; with fewer tokens granted than wanted, it was the episode's."""
        if granted < wanted:
            self.reached = self.reached or "tokens"

    def over_tokens(self, message: str) -> EpisodeLimitError:
        """Returns the error of a context that leaves no room in the engine, and takes note of the limit."""
        self.reached = self.reached or "tokens"
        return EpisodeLimitError("tokens", f"the engine has no room for an answer: {message}")

    def _left(self, segment: int, prompt: int, used: dict[int, int]) -> int:
        most = self._limits.tokens
        if most is None:
            return 1 << 62
        others = {**used, **self._granted}
        others.pop(segment, None)
        return most - sum(others.values()) - prompt

    def _error(self, limit: Limit, what: str) -> EpisodeLimitError:
        self.reached = self.reached or limit
        return EpisodeLimitError(
            limit, f"the episode has reached its limit of {what} (task.limits.{limit}): it is over"
        )
