"""Questions and scores of the real package, in hosts of its own virtualenv."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rollout.tasks import TaskError
from rollout.tasks.score import Score
from tests.tools.adapted_tasks import open_pool, require_python

SUMS: dict[str, Any] = {
    "dataset": "basic_arithmetic",
    "size": 20,
    "config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "operators": ["+"]},
}


def total(text: str) -> int:
    """The sum that a question asks for."""
    return sum(map(int, re.findall(r"-?\d+", text)[:2]))


async def test_questions_come_from_the_package_and_its_scores_are_the_rewards(tmp_path: Path):
    async with open_pool("reasoning-gym", tmp_path, require_python("reasoning-gym"), **SUMS) as pool:
        assert (pool.task.name, pool.task.size) == ("reasoning-gym:basic_arithmetic", 20)
        assert (pool.task.plays, pool.task.fingerprint) == (False, {"reasoning-gym": "0.1.25"})
        first, other, again = await pool.prompts([0, 1, 20])
        assert first.text.endswith("\nGive the final answer between <answer> and </answer>.")
        assert (first.prompt_id, first.text) == (again.prompt_id, again.text)
        assert first.prompt_id != other.prompt_id
        right = total(first.text)
        texts = [f"I think <answer>{right}</answer>", f"<answer>{right + 1}</answer>", str(right)]
        assert await pool.score(first, texts) == [Score(1.0), Score(0.0), Score(0.0)]


async def test_without_a_tag_the_whole_response_is_the_answer(tmp_path: Path):
    python = require_python("reasoning-gym")
    async with open_pool("reasoning-gym", tmp_path, python, **SUMS, tag="", instruction=" Go.") as pool:
        [prompt] = await pool.prompts([5])
        assert prompt.text.endswith(" Go.")
        assert await pool.score(prompt, [f" {total(prompt.text)}\n"]) == [Score(1.0)]


@pytest.mark.parametrize(
    ("options", "named"), [({"dataset": "no_such_set"}, "no_such_set"), ({**SUMS, "config": {"terms": 2}}, "terms")]
)
async def test_what_the_package_does_not_know_is_named(tmp_path: Path, options: dict[str, Any], named: str):
    with pytest.raises(TaskError, match=named):
        async with open_pool("reasoning-gym", tmp_path, require_python("reasoning-gym"), **options):
            pass
