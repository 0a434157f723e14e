"""Groups that are not submitted: why they were withdrawn, and when so many cannot be scored that the worker has to end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from leeway.v1 import rollout_pb2
from rollout.engine.sglang import Response

Reason = Literal[
    "aborted",
    "nan",
    "truncated",
    "too_long",
    "refused",
    "unknown_token",
    "reward_timeout",
    "reward_worker",
    "reward_error",
]

REASONS: tuple[Reason, ...] = (
    *("aborted", "nan", "truncated", "too_long", "refused", "unknown_token"),
    *("reward_timeout", "reward_worker", "reward_error"),
)
_RECENT, _FEWEST = 100, 20  # groups whose scoring is looked at


@dataclass(frozen=True)
class Withdrawal:
    """A group that is not submitted.

    Attributes:
        reason: counted by it.
        message: what happened, for the log.
    """

    reason: Reason
    message: str


def unusable(responses: Sequence[Response], truncated: Literal["train", "withdraw"]) -> Withdrawal | None:
    """Returns why a group must not be scored, or None.

    Args:
        responses: every response to one prompt.
        truncated: what to do with a response that the length limit cut off.
    """
    for response in responses:
        if response.finish == "abort":
            return Withdrawal("aborted", f"the engine aborted a response: {response.message or 'it did not say why'}")
        if response.finish in ("too_long", "refused"):
            return Withdrawal(response.finish, f"the prompt has no response: {response.message}")
    cut = sum(response.finish == "length" for response in responses)
    if cut and truncated == "withdraw":
        return Withdrawal(
            "truncated", f"{cut} of {len(responses)} responses reached max_new_tokens, sampling.truncated = 'withdraw'"
        )
    return None


class ScoringHealth:
    """The share of groups that could not be scored, among the last hundred.

    One failing response in a thousand is a task's business; when most fail, the worker only burns prompts.
    """

    def __init__(self) -> None:
        self._failed: deque[bool] = deque(maxlen=_RECENT)

    def note(self, groups: Iterable[rollout_pb2.Group | Withdrawal]) -> str | None:
        """Notes which groups could be scored; those that nobody tried to score do not count.

        Returns:
            What is wrong, when more than half of at least twenty groups could not be scored.
        """
        last = None
        for group in groups:
            if not isinstance(group, Withdrawal):
                self._failed.append(False)
            elif group.reason.startswith("reward_"):
                self._failed.append(True)
                last = group.message
        failed, seen = sum(self._failed), len(self._failed)
        if last is None or seen < _FEWEST or 2 * failed <= seen:
            return None
        return f"{failed} of the last {seen} groups could not be scored; the last: {last}"
