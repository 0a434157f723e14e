"""Scores in what a judge elsewhere says: checked, found in its text, and mapped to a reward."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from rollout.rewards.patient_call import BadOutputError
from rollout.rewards.regex import last_match
from rollout.tasks.answers.finished import finished_text

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)


def finite(value: Any, what: str) -> float:
    """Returns a finite number. Raises BadOutputError for anything else: text, NaN, null."""
    if isinstance(value, bool | int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise BadOutputError(f"{what} = {value!r:.80}: expected a finite number")


@dataclass(frozen=True)
class ScoreText:
    """How the score is found in a judge's text.

    Attributes:
        pattern: its last match has the score in its first group; not used where there is a field.
        field: of the JSON object that the text is; empty: the pattern.
        low, high: the range of scores, mapped to 0 and 1.
    """

    pattern: re.Pattern[str]
    field: str
    low: float
    high: float

    def reward(self, text: str) -> float:
        """Returns the reward. Raises BadOutputError where there is no score in the range."""
        said = finished_text(text)
        if said is None or not said.strip():
            raise BadOutputError(f"the judge did not finish its reasoning: {text[-80:]!r}")
        score = self._in_json(said) if self.field else self._in_text(said)
        if not self.low <= score <= self.high:
            raise BadOutputError(f"the score {score:g} is not within {self.low:g} and {self.high:g}")
        return (score - self.low) / (self.high - self.low)

    def _in_text(self, said: str) -> float:
        last = last_match(self.pattern, said)
        if last is None:
            raise BadOutputError(f"no score in {said[-120:]!r}")
        try:
            return finite(float(last[1]), "the score")
        except (TypeError, ValueError) as error:
            raise BadOutputError(f"the score {last[1]!r} is no number") from error

    def _in_json(self, said: str) -> float:
        blocks = _FENCED.findall(said)
        try:
            found = json.loads(blocks[-1] if blocks else said)
        except (ValueError, RecursionError) as error:
            raise BadOutputError(f"no JSON: {said[:120]!r}") from error
        if not isinstance(found, dict) or self.field not in found:
            raise BadOutputError(f"no field {self.field!r} in {said[:120]!r}")
        return finite(found[self.field], self.field)
