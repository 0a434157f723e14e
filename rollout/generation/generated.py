"""What came of prompts that were asked: groups, or why there are none, with everything that is known of their responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leeway.v1 import rollout_pb2
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.withdrawal import Withdrawal


@dataclass(frozen=True)
class MadeGroup:
    """What came of one prompt.

    Attributes:
        asked: the prompt, with its task and index.
        prompt_ids: its token ids.
        outcomes: every response: its segments with their version spans, its text, its score with the parts.
        group: the group that is submitted, or why there is none.
    """

    asked: AskedPrompt
    prompt_ids: Sequence[int]
    outcomes: Sequence[ResponseOutcome]
    group: rollout_pb2.Group | Withdrawal

    @property
    def truncated(self) -> int:
        """Number of responses that the length limit cut off, whether or not the group is submitted."""
        return sum(outcome.finish == "length" for outcome in self.outcomes)

    @property
    def generated_tokens(self) -> int:
        """Number of tokens of its responses that the policy generated, whether or not the group is submitted."""
        spans = [span for outcome in self.outcomes for segment in outcome.segments for span in segment.spans]
        return sum(span.end - span.start for span in spans)

    @property
    def rewards(self) -> list[float]:
        """The rewards of the responses that have one."""
        return [outcome.score.reward for outcome in self.outcomes if outcome.score is not None]


@dataclass(frozen=True)
class Generated:
    """The outcome of one request.

    Attributes:
        groups: one for each prompt that was asked, in their order.
        begun, answered, scored: when the request was sent, answered, and its responses were scored, in Unix nanoseconds.
    """

    groups: Sequence[MadeGroup]
    begun: int
    answered: int
    scored: int

    @property
    def submitted(self) -> list[rollout_pb2.Group]:
        """The groups that are submitted."""
        return [made.group for made in self.groups if isinstance(made.group, rollout_pb2.Group)]
