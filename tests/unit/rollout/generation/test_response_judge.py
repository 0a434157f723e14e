"""What a judge is told of a response of one turn: text, length, end, and whether the prompt has opened the reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rollout.engine.response import Response, VersionSpan
from rollout.generation.response_judge import ResponseJudge
from rollout.tasks import Prompt
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.score import Score

WORDS = {0: "<end>", 1: "<think>", 2: "\n", 3: "18", 4: "assistant", 5: "</think>"}


class Words:
    """A tokenizer of a few words."""

    def text(self, ids: Sequence[int], stop_ids: Sequence[int] = ()) -> str:
        kept = ids[:-1] if ids and ids[-1] in stop_ids else ids
        return "".join(WORDS[one] for one in kept)

    def part(self, ids: Sequence[int]) -> str:
        return "".join(WORDS[one] for one in ids)

    def unknown_id(self, ids: Sequence[int], stop_ids: Sequence[int] = ()) -> int | None:
        return None


class Listening:
    """Environments that keep what they are told."""

    def __init__(self) -> None:
        self.heard: list[JudgedResponse] = []

    async def score(self, prompt: Prompt, responses: Sequence[JudgedResponse]) -> list[Score]:
        self.heard += responses
        return [Score(1.0)] * len(responses)


@pytest.mark.parametrize(
    ("prompt_ids", "thinking"),
    [([4, 1, 2], True), ([4, 1], True), ([4, 2], False), ([4, 1, 5, 2], False), ([1, 4], False)],
)
async def test_a_judge_is_told_what_generation_knows(prompt_ids: list[int], thinking: bool):
    environments: Any = Listening()
    tokenizer: Any = Words()
    judge = ResponseJudge(environments, tokenizer, (0,))
    responses = [
        Response([3, 3, 0], "stop", [VersionSpan(0, 0, 3)]),
        Response([3, 3], "length", [VersionSpan(0, 0, 2)]),
    ]
    outcomes = await judge.judge(Prompt("p", "q"), prompt_ids, responses)
    assert [outcome.score for outcome in outcomes] == [Score(1.0)] * 2
    assert environments.heard == [
        JudgedResponse("1818", 3, "stop", thinking),
        JudgedResponse("1818", 2, "length", thinking),
    ]
