"""Calls of a judge elsewhere that are tried again: after errors, overload and time limits, as the server asks."""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rollout.rewards.http_call import HttpAnswer, checked_url, post_json
from rollout.rewards.reward_function import RewardPlace
from rollout.tasks.reward_error import RewardError

_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_SHOWN = 200  # bytes of an answer in a message
_LEAST_S = 0.05  # of a try; a call whose turn comes later is not begun
_MARGIN_S = 0.5  # before the limit of the response, so that the reason is said and not only that the time was over

Read = TypeVar("Read")


@dataclass(frozen=True)
class CallSettings:
    """How a judge elsewhere is called.

    Attributes:
        url: where it is.
        api_key_env: environment variable with its key, sent as a bearer token; empty: none.
        timeout_s: limit of one try; None: half of what a response may take.
        retries: tries after the first one.
        concurrency: most calls under way at once in one process.
    """

    url: str
    api_key_env: str = ""
    timeout_s: float | None = None
    retries: int = 4
    concurrency: int = 64

    def check(self, option: str) -> None:
        """Raises ValueError, which names the option, for what cannot be used."""
        checked_url(self.url, option)
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise ValueError(f"api_key_env = {self.api_key_env!r}: the environment has no such variable; export it")
        if self.timeout_s is not None and not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s = {self.timeout_s}: expected more than 0")
        if self.retries < 0:
            raise ValueError(f"retries = {self.retries}: expected at least 0")
        if self.concurrency < 1:
            raise ValueError(f"concurrency = {self.concurrency}: expected at least 1")


class BadOutputError(Exception):
    """An answer that is no score; the message says why."""


class PatientCall:
    """Calls one judge.

    Args:
        settings: how.
        place: where the reward works.
    """

    def __init__(self, settings: CallSettings, place: RewardPlace) -> None:
        self._settings = settings
        self._limit_s = max(place.limit_s - _MARGIN_S, place.limit_s / 2)
        self._timeout_s = settings.timeout_s or self._limit_s / 2
        self._free = asyncio.Semaphore(settings.concurrency)
        key = os.environ.get(settings.api_key_env, "") if settings.api_key_env else ""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(
        self,
        body: Mapping[str, Any],
        read: Callable[[bytes], Read],
        before: Callable[[], None] = lambda: None,
    ) -> Read:
        """Posts a body and returns what ``read`` makes of the answer.

        Args:
            body: sent as JSON.
            read: reads the answer's body; raises BadOutputError for one that is no score.
            before: called before each try; what it raises ends the call.

        Raises:
            RewardError: judge_unavailable: no try was answered, or the server refuses the request; judge_output: the last
                answer was no score.
        """
        until = time.monotonic() + self._limit_s
        tries = self._settings.retries + 1
        failure = RewardError("judge_unavailable", self._told(0, "its turn did not come"))
        for number in range(1, tries + 1):
            pause = _pause(number)
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - time.monotonic()):
                    await self._free.acquire()
            except TimeoutError:
                raise failure from None
            try:
                left = until - time.monotonic()
                if left < _LEAST_S:
                    raise failure
                before()
                answer = await post_json(self._settings.url, self._headers, body, min(left, self._timeout_s))
                return read(self._good(answer, number))
            except BadOutputError as error:
                failure = RewardError("judge_output", self._told(number, str(error)))
            except _Refused as error:
                failure = RewardError("judge_unavailable", str(error))
                if not error.again:
                    raise failure from error
                pause = pause if error.after_s is None else max(error.after_s, 0.0)
            except TimeoutError:
                failure = RewardError(
                    "judge_unavailable", self._told(number, f"no answer within {min(left, self._timeout_s):.3g} s")
                )
            except OSError as error:
                failure = RewardError("judge_unavailable", self._told(number, f"{type(error).__name__}: {error}"))
            finally:
                self._free.release()
            if number == tries or time.monotonic() + pause >= until:
                raise failure
            await asyncio.sleep(pause)
        raise failure

    def _good(self, answer: HttpAnswer, number: int) -> bytes:
        """Returns the body of an answer of success. Raises _Refused or BadOutputError."""
        if not 200 <= answer.status < 300:
            after_s = _retry_after_s(answer.headers.get("retry-after"))
            what = f"HTTP {answer.status}"
            if 300 <= answer.status < 400:
                what += (
                    f" to {answer.headers.get('location', 'nowhere')!r}: redirects are not followed, correct the url"
                )
            else:
                what += f": {answer.body[:_SHOWN]!r}"
            if after_s is not None:
                what += f"; it asks to wait {after_s:g} s"
            raise _Refused(self._told(number, what), answer.status in _AGAIN, after_s)
        if not answer.whole:
            raise BadOutputError(f"an answer of more than {len(answer.body)} bytes")
        return answer.body

    def _told(self, number: int, what: str) -> str:
        tries = "1 try" if number == 1 else f"{number} tries"
        return f"{self._settings.url}: {what} ({tries}, task.reward_timeout_s allows {self._limit_s:g} s)"


class _Refused(Exception):
    """An answer of failure."""

    def __init__(self, message: str, again: bool, after_s: float | None) -> None:
        super().__init__(message)
        self.again = again
        self.after_s = after_s


def _pause(number: int) -> float:
    """Seconds before the next try: doubled each time, a random share of them, so that callers do not come back together."""
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (number - 1))
    return longest * (0.5 + random.random() / 2)


def _retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None
