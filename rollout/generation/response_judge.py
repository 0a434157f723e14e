"""Turns what an engine answered to a prompt into outcomes: the text is judged, or it is said why it cannot be."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import Response
from rollout.environments.pool import EnvironmentPool
from rollout.episodes.reasoning import opens_reasoning
from rollout.episodes.record import SegmentRecord
from rollout.generation.outcome import Finish, ResponseOutcome
from rollout.tasks import Prompt
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score

_LAST_TOKENS = 16  # of a prompt, within which a template opens the reasoning
_FEWEST_SCORED = 2  # of a group; below, nothing of it is trained, and nobody need be asked


class ResponseJudge:
    """Judges responses of one turn.

    Args:
        environments: judges texts.
        tokenizer: the model's.
        stop_ids: token ids that end a response.
    """

    def __init__(self, environments: EnvironmentPool, tokenizer: Tokenizer, stop_ids: tuple[int, ...]) -> None:
        self._environments = environments
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids

    async def judge(
        self, prompt: Prompt, prompt_ids: Sequence[int], responses: Sequence[Response]
    ) -> list[ResponseOutcome]:
        """Judges responses to a prompt; one that cannot be judged is unscored, with the tokens that it has.

        Args:
            prompt: what was asked.
            prompt_ids: its token ids.
            responses: those that are judged now, one or more of the group.
        """
        outcomes = [self._unjudged(number, prompt_ids, response) for number, response in enumerate(responses)]
        good = [number for number, outcome in enumerate(outcomes) if not outcome.unscored]
        if len(good) < min(_FEWEST_SCORED, len(outcomes)):
            first = next((outcome for outcome in outcomes if outcome.unscored), None)
            if first is None:
                return outcomes
            return [outcome if outcome.unscored else _without_score(outcome, first) for outcome in outcomes]
        opened = opens_reasoning(self._tokenizer.part(prompt_ids[-_LAST_TOKENS:]))
        judged = [
            JudgedResponse(outcomes[number].text, len(responses[number].tokens), outcomes[number].finish, opened)
            for number in good
        ]
        for number, score in zip(good, await self._environments.score(prompt, judged), strict=True):
            outcomes[number] = _with_score(outcomes[number], score)
        return outcomes

    def _unjudged(self, number: int, prompt_ids: Sequence[int], response: Response) -> ResponseOutcome:
        """The outcome of a response before anybody has judged it."""
        if response.finish in ("too_long", "refused"):
            message = f"the prompt has no response: {response.message}"
            return ResponseOutcome([], "abort", None, response.finish, message)
        ends = self._ends(response)
        if (token := self._tokenizer.unknown_id(response.tokens, ends)) is not None:
            # Not sent: it is outside the vocabulary, which is the tokenizer's.
            message = f"response {number}: the tokenizer has no token {token}"
            return ResponseOutcome([], _finish(response), None, "unknown_token", message)
        # Tokens that the engine gave without saying which version made them can carry no loss.
        tokens, spans = list(response.tokens), list(response.spans)
        first = SegmentRecord(list(prompt_ids), tokens, spans, "first", routed=response.routed)
        segments = [first] if response.spans else []
        text = self._tokenizer.text(response.tokens, ends)
        if response.finish == "abort":
            message = f"the engine aborted a response: {response.message or 'it did not say why'}"
            return ResponseOutcome(segments, "abort", None, "aborted", message, text)
        return ResponseOutcome(segments, _finish(response), None, text=text)

    def _ends(self, response: Response) -> tuple[int, ...]:
        # The engine may know end tokens that no file names; what it says it stopped at is never part of the answer.
        return self._stop_ids if response.stopped_by is None else (*self._stop_ids, response.stopped_by)


def _finish(response: Response) -> Finish:
    return "length" if response.finish == "length" else "stop" if response.finish == "stop" else "abort"


def _with_score(outcome: ResponseOutcome, score: Score | RewardError) -> ResponseOutcome:
    if isinstance(score, RewardError):
        return ResponseOutcome(outcome.segments, outcome.finish, None, score.reason, str(score), outcome.text)
    return ResponseOutcome(outcome.segments, outcome.finish, score, text=outcome.text)


def _without_score(outcome: ResponseOutcome, why: ResponseOutcome) -> ResponseOutcome:
    return ResponseOutcome(outcome.segments, outcome.finish, None, why.unscored, why.message, outcome.text)
