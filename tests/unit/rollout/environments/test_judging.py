"""Named rewards in the processes where they belong: quick ones here, the others in hosts that hang, die and lie."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollout.config import TaskConfig
from rollout.environments import host_process
from rollout.environments import pool as pool_module
from rollout.environments.judging import is_quick, split_rewards
from rollout.environments.loading import TaskSpec
from rollout.environments.pool import EnvironmentPool
from rollout.tasks import Prompt, TaskError
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools.fleet_peers import until
from tests.unit.rollout.rewards.scripted_server import Scripted, ScriptedServer, said

OWN = "tests.unit.rollout.rewards.user_rewards"


@pytest.fixture
async def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Opens pools of one process that are closed after the test."""
    monkeypatch.setattr(host_process, "_GRACE_S", 0.1)
    monkeypatch.setattr(pool_module, "_WATCH_S", 0.05)
    opened: list[Any] = []

    async def opening(*reward: dict[str, Any], **changes: Any) -> EnvironmentPool:
        settings = {"name": "sort", "reward_timeout_s": 60.0, **changes, "reward": list(reward)}
        pool = EnvironmentPool.open(TaskConfig.parse(settings, source="test"), 0, tmp_path / "environment")
        found = await pool.__aenter__()
        opened.append(pool)
        return found

    yield opening
    for one in opened:
        await one.__aexit__(None, None, None)


def reasons(outcomes: list[Score | RewardError]) -> list[str]:
    return [outcome.reason if isinstance(outcome, RewardError) else "scored" for outcome in outcomes]


async def test_quick_rewards_of_a_built_in_task_are_judged_here(opens: Any):
    pool = await opens(
        {"name": "exact", "part": "right", "weight": 2.0},
        {"name": "task"},
        {"name": "length", "weight": 0.5, "options": {"from_tokens": 2, "to_tokens": 4}},
    )
    (prompt,) = await pool.prompts([0])
    right = JudgedResponse(prompt.data, 3, "stop")
    expected = {"right": 2.0, "task": 1.0, "length": -0.25}
    assert await pool.score(prompt, [right]) == [Score(2.75, expected)]
    assert reasons(await pool.score(prompt, [prompt.data])) == ["reward_error"]  # nobody counted its tokens
    assert pool.pids() == []


async def test_what_computes_and_what_waits_are_judged_in_processes_of_their_own_and_added_up(opens: Any):
    async with ScriptedServer.open(said("Score: 5")) as server:
        pool = await opens(
            {"name": "exact", "weight": 2.0},
            {"name": "math"},
            {"name": "llm_judge", "part": "style", "weight": 0.5, "options": {"base_url": server.url, "model": "m"}},
        )
        computing, waiting = pool.pids()
        assert computing != waiting
        (prompt,) = await pool.prompts([0])
        right, wrong = await pool.score(prompt, [prompt.data, "0"])
        assert right == Score(3.25, {"math": 1.0, "exact": 2.0, "style": 0.25})
        assert wrong == Score(0.25, {"math": 0.0, "exact": 0.0, "style": 0.25})
        server.script = [said("I do not know")]
        assert reasons(await pool.score(prompt, [prompt.data])) == ["judge_output"]


async def test_one_process_asks_a_judge_elsewhere_about_many_responses_at_once(opens: Any):
    async with ScriptedServer.open(Scripted(0.5)) as server:
        pool = await opens({"name": "http", "options": {"url": server.url}})
        (prompt,) = await pool.prompts([0])
        assert len(pool.pids()) == 1
        server.gate.clear()
        judged = asyncio.create_task(pool.score(prompt, ["x"] * 20))
        await until(lambda: len(server.requests) == 20, "twenty calls at once")
        server.gate.set()
        assert await judged == [Score(0.5, {"http": 0.5})] * 20


async def test_a_judge_that_hangs_dies_or_lies_leaves_its_response_unscored_and_no_other(opens: Any):
    pool = await opens({"name": f"{OWN}:scripted", "part": "own"}, {"name": "exact"}, processes=2, reward_timeout_s=2.0)
    (prompt,) = await pool.prompts([0])
    texts = ["hang", "exit", "nan", "text", "none", "numbers", "infinite", "raise", "fine"]
    outcomes = await pool.score(prompt, texts)
    assert reasons(outcomes) == ["reward_timeout", "environment_died", *["reward_error"] * 6, "scored"]
    assert outcomes[-1] == Score(1.0, {"own": 1.0, "exact": 0.0})
    assert "reward['own'] = nan: expected a finite number" in str(outcomes[2])


async def test_a_judge_that_takes_too_much_memory_is_killed(opens: Any):
    pool = await opens({"name": f"{OWN}:scripted"}, limits={"memory_mb": 300})
    (prompt,) = await pool.prompts([0])
    assert reasons(await pool.score(prompt, ["memory", "fine"])) == ["environment_died", "scored"]


async def test_hostile_answers_are_unscored_within_the_time_limit(opens: Any):
    pool = await opens({"name": "math"}, processes=2)
    prompt = Prompt("p", "q", {"answer": "18"})
    towers = [r"\boxed{9^{9^{9}}}", r"\boxed{" + "(" * 100 + "1" + ")" * 100 + "}"]
    outcomes = await pool.score(prompt, [*towers, r"\boxed{18}", r"\boxed{17}"])
    assert reasons(outcomes) == ["unjudgeable", "unjudgeable", "scored", "scored"]
    assert outcomes[2:] == [Score(1.0, {"math": 1.0}), Score(0.0, {"math": 0.0})]


async def test_a_pattern_that_runs_for_ever_is_ended(opens: Any):
    pool = await opens({"name": "regex", "options": {"pattern": "(a+)+$"}}, reward_timeout_s=2.0)
    (prompt,) = await pool.prompts([0])
    outcomes = await pool.score(prompt, ["a" * 60 + "!", "aaa"])
    assert reasons(outcomes) == ["reward_timeout", "scored"]


async def test_a_task_of_a_users_own_has_named_rewards(opens: Any):
    pool = await opens({"name": "task"}, {"name": "exact"}, name="tests.tools.fleet_tasks:Reverse")
    (prompt,) = await pool.prompts([0])
    right = prompt.text[:-1][::-1]
    assert await pool.score(prompt, [right, "x"]) == [
        Score(2.0, {"task": 1.0, "exact": 1.0}),
        Score(0.0, {"task": 0.0, "exact": 0.0}),
    ]


async def test_rows_of_a_data_set_are_judged_by_answer_and_by_other_columns(opens: Any, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "Which?", "answer": "B", "options": ["one", "two"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = await opens(
        {"name": "choice", "options": {"choices": "options"}}, name="dataset", options={"path": str(path)}
    )
    (prompt,) = await pool.prompts([0])
    assert await pool.score(prompt, ["It is two", "(A)"]) == [Score(1.0, {"choice": 1.0}), Score(0.0, {"choice": 0.0})]


@pytest.mark.parametrize(
    ("reward", "changes", "message"),
    [
        ([{"name": "exakt"}], {}, "no such reward: expected one of exact"),
        ([{"name": "exact", "options": {"stripe": 1}}], {}, r"options\.stripe: there is no such option"),
        ([{"name": "math", "options": {"x": 1}}], {}, r"part 'math' \(math\): options\.x"),
        ([{"name": "no.such:reward"}], {}, "cannot be imported"),
        ([{"name": "http", "options": {"url": "nowhere"}}], {}, "url = 'nowhere'"),
        (
            [{"name": "exact"}],
            {"name": "tests.tools.fleet_tasks:Playing"},
            "plays episodes and gives their rewards itself",
        ),
        ([{"name": "exact"}], {"name": "tests.tools.fleet_tasks:agent", "prompts": "sort"}, "plays episodes"),
        ([{"name": "exact"}], {"remote": True, "prompts": "sort"}, "plays episodes"),
        ([{"name": "exact"}], {"command": ["true"], "prompts": "sort"}, "plays episodes"),
    ],
)
async def test_a_mistake_in_the_rewards_is_found_at_the_start(
    opens: Any, reward: list[dict[str, Any]], changes: dict[str, Any], message: str
):
    with pytest.raises(TaskError, match=message):
        await opens(*reward, **changes)


def part(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "part": "", "weight": 1.0, "options": options}


@pytest.mark.parametrize(
    ("names", "own_is_quick", "groups"),
    [
        (["exact"], True, [["exact"]]),
        (["math", "exact"], True, [["math", "exact"]]),
        (["http", "exact"], True, [["http", "exact"]]),
        (["exact", "http", "math", "llm_judge"], True, [["math", "exact"], ["http", "llm_judge"]]),
        (["task", "http"], True, [["http", "task"]]),
        (["task", "http"], False, [["task"], ["http"]]),
        ([], True, []),
    ],
)
def test_rewards_are_split_into_those_that_compute_and_those_that_wait(
    names: list[str], own_is_quick: bool, groups: list[list[str]]
):
    spec = TaskSpec("sort", rewards=[part(name) for name in names])
    assert [[one["name"] for one in group.rewards] for group in split_rewards(spec, own_is_quick)] == groups


def test_only_what_cannot_hang_is_judged_here():
    assert is_quick(TaskSpec("sort", rewards=[part("exact"), part("task")]), own_is_quick=True)
    assert not is_quick(TaskSpec("gsm8k", rewards=[part("task")]), own_is_quick=False)
    assert not is_quick(TaskSpec("sort", rewards=[part("numeric", pattern="x")]), own_is_quick=True)
