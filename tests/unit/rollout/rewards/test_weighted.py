"""Weighted sums: parts add up, and one part that cannot judge leaves the response unscored."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from rollout.rewards.registry import RewardPart
from rollout.rewards.rewarded_task import RewardedTask
from rollout.rewards.weighted import WeightedRewards
from rollout.tasks import Prompt, TaskError, load_task, make_task
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score, as_score
from tests.unit.rollout.rewards.judging import asked

OWN = "tests.unit.rollout.rewards.user_rewards"


def weighted(*parts: RewardPart) -> WeightedRewards:
    return WeightedRewards(parts, make_task("sort", 0, {}), 10.0, None)


def judged(rewards: WeightedRewards, text: str, **facts: Any) -> dict[str, float]:
    found = rewards.judge(asked(text, **facts))
    return asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found  # type: ignore[return-value]


async def _awaited(found: Any) -> Any:
    return await found


def test_parts_carry_weighted_values_that_add_up():
    rewards = weighted(
        RewardPart("exact", "right", 2.0),
        RewardPart("numeric", weight=0.5),
        RewardPart("length", weight=0.25, options={"from_tokens": 0, "to_tokens": 4}),
    )
    found = judged(rewards, "18", tokens=2)
    assert found == {"right": 2.0, "numeric": 0.5, "length": -0.125}
    assert as_score(found) == Score(2.375, found)


def test_named_numbers_of_one_reward_are_parts_of_their_own():
    rewards = weighted(RewardPart(f"{OWN}:parts", "text", 2.0), RewardPart(f"{OWN}:patient", "size"))
    assert judged(rewards, "ab1") == {"text.letters": 4.0, "text.digits": 2.0, "size": 3.0}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("other", [f"{OWN}:patient", "exact"])
def test_one_part_that_cannot_judge_leaves_the_response_unscored(order: tuple[int, int], other: str):
    pair = (RewardPart("numeric", "amount"), RewardPart(other))
    rewards = weighted(*(pair[number] for number in order))
    with pytest.raises(RewardError, match="reward 'amount': the prompt's answer 'Paris' is no number") as error:
        judged(rewards, "18", answer="Paris")
    assert error.value.reason == "reward_error"


@pytest.mark.parametrize("text", ["nan", "infinite", "text", "none", "numbers"])
def test_what_is_no_finite_number_is_no_reward(text: str):
    with pytest.raises(TaskError, match=r"reward\['.*scripted'\] = "):
        judged(weighted(RewardPart("exact", "a"), RewardPart(f"{OWN}:scripted")), text)


def test_the_tasks_own_reward_can_be_one_part():
    task = load_task("sort", 0, {})
    prompt = task.prompt(0)
    rewarded = RewardedTask(task, [RewardPart("task", weight=3.0), RewardPart("exact", weight=0.5)])
    assert rewarded.judge(prompt, JudgedResponse(prompt.data)) == {"task": 3.0, "exact": 0.5}
    assert rewarded.solution(prompt) == prompt.data
    assert not rewarded.slow


@pytest.mark.parametrize(
    ("task", "parts", "waits"),
    [
        ("sort", ["http", "exact", "task"], True),
        ("sort", ["exact", "task"], False),
        ("sort", ["http", "math"], False),
        ("sort", [f"{OWN}:patient"], True),
        ("sort", [f"{OWN}:shorter"], False),
        ("tests.tools.fleet_tasks:Reverse", ["http", "task"], False),
    ],
)
def test_many_are_judged_at_once_only_where_nothing_holds_up_the_process(task: str, parts: list[str], waits: bool):
    options = {"http": {"url": "http://127.0.0.1:1/"}}
    made = [RewardPart(name, options=options.get(name, {})) for name in parts]
    assert RewardedTask(make_task(task, 0, {}), made).judges_many is waits


def test_a_task_that_plays_or_judges_groups_says_why_it_cannot_have_rewards():
    playing = make_task("tests.tools.fleet_tasks:Playing", 0, {})
    with pytest.raises(TaskError, match="plays episodes and gives their rewards itself"):
        RewardedTask(playing, [RewardPart("exact")])
    together = make_task("tests.tools.fleet_tasks:Together", 0, {})
    with pytest.raises(TaskError, match="judges all responses to a prompt together"):
        RewardedTask(together, [RewardPart("task")])
    assert RewardedTask(together, [RewardPart("exact")]).judge(Prompt("p", data="x"), JudgedResponse("x")) == {
        "exact": 1.0
    }
