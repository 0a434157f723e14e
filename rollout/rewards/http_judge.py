"""The reward http: a judge elsewhere is sent the response as JSON and answers a number, or named numbers."""

from __future__ import annotations

import json
from typing import Any

from rollout.rewards.patient_call import BadOutputError, CallSettings, PatientCall
from rollout.rewards.reward_function import RewardFunction, RewardInput, RewardPlace, Value
from rollout.rewards.score_text import finite


class HttpJudge(RewardFunction):
    """What the judge at a URL answers to a POST.

    It is sent {"prompt_id", "prompt" (text or messages), "answer", "row", "response", "finished" (the text without its
    reasoning; null where that is not finished), "tokens", "finish"}, and answers a number, or an object whose ``field`` is a
    number or an object of named numbers. 408, 409, 425, 429, 5xx, broken connections and time limits are tried again, after
    what Retry-After asks for.

    Args:
        url: where it is, http:// or https://; redirects are not followed.
        field: of the object that it answers.
        api_key_env: environment variable with a key that is sent as a bearer token.
        timeout_s: limit of one try; 0: half of task.reward_timeout_s, which is the limit of all tries together.
        retries: tries after the first one.
        concurrency: most calls under way at once in one process.
    """

    def __init__(
        self,
        url: str,
        field: str = "reward",
        api_key_env: str = "",
        timeout_s: float = 0.0,
        retries: int = 4,
        concurrency: int = 64,
    ) -> None:
        self._settings = CallSettings(url, api_key_env, timeout_s or None, retries, concurrency)
        self._settings.check("url")
        self._field = field
        self._call: PatientCall | None = None

    def prepare(self, place: RewardPlace) -> None:
        self._call = PatientCall(self._settings, place)

    async def value(self, asked: RewardInput) -> Value:
        assert self._call is not None
        prompt, response = asked.prompt, asked.response
        body = {
            "prompt_id": prompt.prompt_id,
            "prompt": list(prompt.messages) if prompt.messages else prompt.text,
            "answer": asked.answer,
            "row": dict(asked.row),
            "response": response.text,
            "finished": asked.finished,
            "tokens": response.tokens,
            "finish": response.finish,
        }
        return await self._call.ask(json.loads(json.dumps(body, default=str)), self._read)

    def _read(self, body: bytes) -> Value:
        found = _json(body)
        if isinstance(found, dict):
            if self._field not in found:
                raise BadOutputError(f"an answer without {self._field!r}: {body[:200]!r}")
            found = found[self._field]
        if isinstance(found, dict) and found:
            return {str(name): finite(value, f"{self._field}.{name}") for name, value in found.items()}
        return finite(found, self._field)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadOutputError(f"an answer that is no JSON: {body[:200]!r}") from error
