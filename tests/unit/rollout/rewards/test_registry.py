"""The registry: names, entry points, functions, and settings that are refused with a word."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from rollout.rewards import registry
from rollout.rewards.listing import lines
from rollout.rewards.options import options_of
from rollout.rewards.registry import BUILT_IN, RewardPart, check_parts, load_target, make_reward
from rollout.tasks import TaskError
from tests.unit.rollout.rewards.judging import value

OWN = "tests.unit.rollout.rewards.user_rewards"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (RewardPart("exakt"), "name = 'exakt': no such reward: expected one of exact, regex, numeric, choice, math"),
        (RewardPart("no.such:thing"), "cannot be imported"),
        (RewardPart(f"{OWN}:nothing"), "cannot be imported"),
        (RewardPart(f"{OWN}:NOT_A_REWARD"), "expected a function or a subclass"),
        (RewardPart("rollout.tasks:Prompt"), "expected a function or a subclass"),
        (
            RewardPart("exact", options={"stripe": True}),
            r"options\.stripe: there is no such option; it has strip, casefold",
        ),
        (RewardPart("exact", options={"strip": "yes"}), r"options\.strip = 'yes': expected true or false"),
        (RewardPart("numeric", options={"tolerance": True}), r"options\.tolerance = True: expected a number"),
        (
            RewardPart("length", "brief", options={"to_tokens": 5}),
            r"part 'brief' \(length\): options\.from_tokens: must be set",
        ),
        (RewardPart("choice", options={"letters": 1}), "letters = 1: expected 2 to 26"),
        (RewardPart("http", options={"url": "judge:80"}), "url = 'judge:80': expected http://host"),
        (
            RewardPart("http", options={"url": "http://h/", "api_key_env": "NO_SUCH_KEY"}),
            "the environment has no such variable",
        ),
        (RewardPart("http", options={"url": "http://h/", "retries": -1}), "retries = -1"),
        (
            RewardPart("llm_judge", options={"base_url": "http://h", "model": "m", "low": 5.0, "high": 5.0}),
            "expected low < high",
        ),
        (
            RewardPart("llm_judge", options={"base_url": "http://h", "model": "m", "template": "{prompt}"}),
            "expected {response}",
        ),
        (
            RewardPart("llm_judge", options={"base_url": "http://h", "model": "m", "pattern": "score"}),
            "expected a group",
        ),
        (RewardPart(f"{OWN}:shorter", options={"size": 2}), "options size: its own parameters are factor"),
        (RewardPart(f"{OWN}:Constant"), r"options\.number: must be set"),
        (RewardPart("builtins:pow"), "its parameters base, exp are neither options nor one of prompt, response"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_name_and_what_to_do(part: RewardPart, message: str):
    with pytest.raises(TaskError, match=message):
        make_reward(part)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([RewardPart("exact"), RewardPart("exact")], "2 parts are called 'exact': give each a part name of its own"),
        ([RewardPart("exact", "a"), RewardPart("math", "a")], "2 parts are called 'a'"),
        ([RewardPart("exact", weight=float("nan"))], "weight = nan: expected a finite number"),
        ([RewardPart("exact", weight=float("inf"))], "weight = inf"),
    ],
)
def test_names_and_weights_are_checked(parts: list[RewardPart], message: str):
    with pytest.raises(TaskError, match=message):
        check_parts(parts)


def test_functions_get_what_their_parameters_are_named_after():
    assert value(f"{OWN}:shorter", "abcd", "ab") == 0.5
    assert value(f"{OWN}:shorter", "abcd", "ab", {"factor": 2.0}) == 1.0
    assert value(f"{OWN}:everything", "x") == 9.0
    assert value(f"{OWN}:patient", "abc") == 3.0
    assert value(f"{OWN}:Constant", "x", options={"number": 3}) == 3.0


def test_installed_packages_bring_rewards(monkeypatch: pytest.MonkeyPatch):
    point = importlib.metadata.EntryPoint("brief", f"{OWN}:shorter", registry.GROUP)
    real = importlib.metadata.entry_points
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda **of: [point] if of == {"group": "leeway.rewards"} else real(**of)
    )
    assert value("brief", "abcd", "ab") == 0.5
    assert f"brief  ({OWN}:shorter, entry point of leeway.rewards)" in list(lines())
    with pytest.raises(TaskError, match="llm_judge, brief, task, or module:function"):
        make_reward(RewardPart("briefly"))


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_option_has_a_type_and_says_what_it_means(name: str):
    for option in options_of(load_target(BUILT_IN[name])):
        assert option.kinds, option.name
        assert option.text.endswith(".") or ":" in option.text, option


def test_the_list_names_every_reward_and_option():
    text = "\n".join(lines())
    for name, target in BUILT_IN.items():
        assert f"\n{name}  (" in text
        for option in options_of(load_target(target)):
            assert f"      {option.name} (" in text


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("exact", {}, "quick"),
        ("numeric", {}, "quick"),
        ("numeric", {"pattern": "x"}, "slow"),
        ("regex", {"pattern": "x"}, "slow"),
        ("math", {}, "slow"),
        ("format", {}, "quick"),
        ("format", {"pattern": "x"}, "slow"),
        ("llm_judge", {}, "waiting"),
        ("a:b", {}, "slow"),
    ],
)
def test_what_may_hang_is_never_judged_in_the_workers_process(name: str, options: dict[str, Any], kind: str):
    assert RewardPart(name, options=options).kind == kind
