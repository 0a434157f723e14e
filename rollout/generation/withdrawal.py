"""Groups that are not submitted: why they were withdrawn, and when so many cannot be scored that the worker has to end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leeway.v1 import rollout_pb2
from rollout.generation.outcome import ResponseOutcome

# What may keep a response from being scored. Agents elsewhere may say any other reason: it is counted as "other" here.
UNJUDGED = (
    *("reward_timeout", "reward_error", "rollout_failed", "environment_died"),
    *("judge_unavailable", "judge_output", "judge_budget"),
)
UNSCORED = (
    *("aborted", "too_long", "refused", "unknown_token", "no_tokens", "unjudgeable"),
    *UNJUDGED,
    *("limit_turns", "limit_tokens", "limit_seconds", "other"),
)
REASONS = (*UNSCORED, "nan", "truncated")
_RECENT, _FEWEST = 100, 20  # groups whose scoring is looked at
_FEWEST_SCORED = 2  # of a group: one reward has nothing to be compared with


@dataclass(frozen=True)
class Withdrawal:
    """A group that is not submitted.

    Attributes:
        reason: counted by it.
        message: what happened, for the log.
    """

    reason: str
    message: str


def known(reason: str) -> str:
    """Returns a reason as it is counted here."""
    return reason if reason in REASONS else "other"


def too_few(outcomes: Sequence[ResponseOutcome]) -> Withdrawal | None:
    """Returns why a group is not submitted of which fewer than two responses are scored; None where it is."""
    unscored = [outcome for outcome in outcomes if outcome.score is None]
    if not unscored or len(outcomes) - len(unscored) >= _FEWEST_SCORED:
        return None
    return Withdrawal(known(unscored[0].unscored), unscored[0].message)


def cut_off(finishes: Sequence[str]) -> Withdrawal | None:
    """Returns why a group is withdrawn where truncated responses may not be trained; None where none was cut off.

    Args:
        finishes: how each response ended.
    """
    cut = sum(finish == "length" for finish in finishes)
    if not cut:
        return None
    return Withdrawal(
        "truncated", f"{cut} of {len(finishes)} responses reached max_new_tokens, sampling.truncated = 'withdraw'"
    )


class ScoringHealth:
    """The share of groups that could not be scored, among the last hundred.

    One failing response in a thousand is a task's business; when most fail, the worker only burns prompts.
    """

    def __init__(self) -> None:
        self._failed: deque[bool] = deque(maxlen=_RECENT)

    def note(self, groups: Iterable[rollout_pb2.Group | Withdrawal]) -> str | None:
        """Notes which groups could be scored; those that nobody tried to score do not count.

        A group counts as failed that was withdrawn for it, or if more than half of its responses could not be judged.

        Returns:
            What is wrong, when more than half of at least twenty groups could not be scored.
        """
        last = None
        for group in groups:
            if not isinstance(group, Withdrawal):
                unjudged = [one.unscored for one in group.responses if one.unscored in UNJUDGED]
                self._failed.append(2 * len(unjudged) > len(group.responses))
                last = unjudged[0] if self._failed[-1] else last
            elif group.reason in UNJUDGED:
                self._failed.append(True)
                last = group.message
        failed, seen = sum(self._failed), len(self._failed)
        if last is None or seen < _FEWEST or 2 * failed <= seen:
            return None
        return f"{failed} of the last {seen} groups could not be scored; the last: {last}"
