"""The dry run of a task: what it shows of a sound one, and what it says of every mistake that a task can have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from learner.cli.preflight import task as dry_runs
from learner.cli.preflight.dry_run import DryRunReport
from learner.cli.preflight.finding import Finding
from learner.cli.preflight.network import network
from learner.cli.preflight.task import task
from tests.tools.doctor_site import Site, bad, examined_run


def tried(site: Site, name: str, *overrides: str, brief: bool = False) -> list[Finding]:
    examined = examined_run(site, f"rollout.task.name={name}", *overrides)
    return list(task(examined, network(examined), brief))


def odd(site: Site, name: str, *overrides: str, brief: bool = False) -> list[str]:
    return bad(iter(tried(site, f"tests.tools.odd_tasks:{name}", *overrides, brief=brief)))


def test_a_sound_task_shows_a_prompt_its_ids_the_lengths_and_two_rewards(site: Site):
    found = {one.check: one.found for one in tried(site, "sort")}
    assert {one.state for one in tried(site, "sort")} == {"ok"}
    assert "'848856=', 8 ids: [14, 8, 4, 8, 8, 5, 6, 11]" in found["task"]
    assert found["prompts"].startswith("1000 prompts measured, 1000 of them different: 8 to 8 tokens, median 8")
    assert found["reward"] == "an empty response 0, a right answer 1"


def test_what_is_evaluated_is_tried_too(site: Site):
    (found,) = bad(iter(tried(site, "sort", "eval.task.name=gsm8k")))
    assert found.startswith("fail task: evaluation of gsm8k: ")
    assert "task.options.path = '': no such file" in found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.tools.odd_tasks:Missing", "cannot be imported"),
        ("no_such_module:Task", "No module named 'no_such_module'"),
        ("tests.tools.odd_tasks:Broken", "loading it raised ZeroDivisionError: of what"),
        ("gsm8k", "task.options.path = '': no such file"),
    ],
)
def test_a_task_that_cannot_be_loaded(site: Site, name: str, message: str):
    (found,) = bad(iter(tried(site, name)))
    assert found.startswith("fail task: ")
    assert message in found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Raising", "fail task: task.name = 'tests.tools.odd_tasks:Raising': prompt 20 raised KeyError: 'question'"),
        ("Undecided", "warn reward: an empty response 0.5, a right answer 0.5"),
        ("Infinite", "fail reward: task.name = 'infinite'"),
        ("Changing", "warn task: prompt(0) gave 'plain:0000' and then 'plain:00000'"),
        ("Ending", "fail task: task.name = 'tests.tools.odd_tasks:Ending': making and rendering prompts: the process ended "
         r"with 7: no licence\x1b[2J"),
    ],
)  # fmt: skip
def test_a_task_with_a_mistake(site: Site, name: str, found: str):
    (first, *_) = odd(site, name)
    assert first.startswith(found.replace("task.name = 'infinite'", "task.name = 'plain': reward failed"))


def test_finite_data_is_counted_and_not_measured_twice(site: Site):
    found = {one.check: one.found for one in tried(site, "tests.tools.odd_tasks:Finite")}
    assert found["prompts"].startswith("4 prompts measured of 4, 4 of them different")


def test_a_warm_start_needs_solutions(site: Site):
    (found,) = odd(site, "Unsolved")
    assert found.startswith(
        "fail reward: an empty response 0; the task knows no solutions, which [learner.warmup] needs"
    )


def test_a_reward_that_the_gateway_would_reject(site: Site):
    (found,) = odd(site, "Plain", "gateway.limits.reward_range=[-1, 0.5]")
    assert found.startswith(
        "fail reward: the reward of a right answer is 1, outside gateway.limits.reward_range = [-1, 0.5]"
    )


def test_what_a_task_prints_is_not_taken_for_a_finding(site: Site):
    assert odd(site, "Talkative") == []


def test_a_slow_task_is_scored_in_its_process_and_not_by_the_brief_run(site: Site):
    checks = [one.check for one in tried(site, "tests.tools.odd_tasks:Slow")]
    assert checks == ["task", "prompts", "reward"]
    checks = [one.check for one in tried(site, "tests.tools.odd_tasks:Slow", brief=True)]
    assert checks == ["task", "prompts"]


def test_a_task_that_hangs_is_killed(site: Site, monkeypatch: pytest.MonkeyPatch):
    run = dry_runs.dry_run
    monkeypatch.setattr(dry_runs, "dry_run", lambda request, _: run(request, 6.0))
    assert odd(site, "Hanging") == [
        "fail task: task.name = 'tests.tools.odd_tasks:Hanging': scoring a response: no answer within 6 s"
    ]


def test_a_task_that_takes_long_does_not_keep_a_run_from_starting(site: Site, monkeypatch: pytest.MonkeyPatch):
    report = DryRunReport(unfinished="loading it: no answer within 20 s", hung=True)
    monkeypatch.setattr(dry_runs, "dry_run", lambda request, limit_s: report)
    assert odd(site, "Plain", brief=True) == ["warn task: loading it: no answer within 20 s"]


def test_prompts_that_are_too_long(site: Site):
    (found,) = odd(site, "Uneven", "rollout.sampling.max_new_tokens=20")
    assert found.startswith(
        "warn prompts: 1000 prompts measured, 1000 of them different: 6 to 51 tokens, median 6; 334 are"
    )
    assert "longer than the 44 tokens that fit beside sampling.max_new_tokens = 20" in found
    (found,) = odd(site, "Plain", "rollout.task.options={digits=50}", "rollout.sampling.max_new_tokens=20")
    assert found.startswith("fail prompts: ")


def test_the_longest_prompt_and_response_against_the_micro_batch(site: Site):
    (found,) = odd(site, "Uneven", "learner.micro_batch_tokens=57")
    assert found.startswith("fail micro-batch: learner.micro_batch_tokens = 57 is below")
    assert odd(site, "Uneven", "learner.micro_batch_tokens=58") == []


def test_a_chat_prompt_without_a_template(site: Site):
    for brief in (True, False):
        (found,) = odd(site, "Plain", "rollout.task.prompt_format=chat", brief=brief)
        assert "model = the demo's model: it has no chat template" in found
        assert found.startswith("fail t")


def test_a_chat_prompt_with_a_template(site: Site):
    path = site.model / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message.content }}{% endfor %}="
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    found = tried(site, "sort", "rollout.task.prompt_format=chat", f"model.path={site.model}")
    assert [one.state for one in found] == ["ok", "ok", "ok"], found
    assert "8 ids: [8, 4, 8, 8, 5, 6, 11, 11]" in found[0].found


def test_a_task_of_another_virtualenv_is_not_tried_here(site: Site):
    (found,) = odd(site, "Plain", "rollout.task.python=/elsewhere/bin/python")
    assert found.startswith("warn task: task.python = /elsewhere/bin/python: not tried")


def test_the_prompts_of_an_agent_are_tried_and_the_agent_is_not(site: Site):
    found = {
        one.check: one.found for one in tried(site, "label", "rollout.task.remote=true", "rollout.task.prompts=sort")
    }
    assert found.keys() == {"task", "prompts"}
    assert "'848856=', 8 ids" in found["task"]


def test_every_task_of_a_mixture_is_tried_and_named(site: Site):
    mixture = '[{name="sort"}, {name="tests.tools.odd_tasks:Infinite"}, {name="add", label="sums", held_out=0.25}]'
    examined = examined_run(site, f"rollout.task={mixture}")
    found = list(task(examined, network(examined)))
    assert {one.found.partition(":")[0] for one in found} == {"sort", "Infinite", "sums"}
    (wrong,) = [one.found for one in found if one.state != "ok"]
    assert wrong.startswith("Infinite: task.name = 'plain': reward failed: TaskError: reward = nan")
    (lengths,) = [one.found for one in found if one.check == "prompts" and one.found.startswith("sums: ")]
    assert re.search(r"; 2\d\d of them held out for evaluation$", lengths)


def test_where_every_prompt_is_held_out_nothing_is_left_to_train_on(site: Site, tmp_path: Path):
    data = tmp_path / "two.jsonl"
    data.write_text('{"question": "1?", "answer": "#### 1"}\n{"question": "2?", "answer": "#### 2"}\n')
    found = bad(iter(tried(site, "gsm8k", f"rollout.task.options.path={data}", "rollout.task.held_out=0.999999")))
    assert any("2 of them held out for evaluation: task.held_out = 0.999999" in one for one in found)
