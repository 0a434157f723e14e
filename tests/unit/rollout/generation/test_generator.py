"""Groups made of responses: batches, single responses and episodes; what is scored, unscored or withdrawn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leeway.v1 import rollout_pb2
from rollout.client import decode_ids
from rollout.config import TaskConfig, WorkerConfig
from rollout.data.demo_model import EOS, write_model
from rollout.data.tokenizer import Tokenizer
from rollout.engine.errors import EngineError, NotFiniteError
from rollout.engine.response import Response, VersionSpan
from rollout.environments.description import TaskDescription
from rollout.episodes.record import SegmentRecord
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generator import GroupGenerator
from rollout.generation.outcome import ResponseOutcome
from rollout.generation.response_slots import ResponseSlots
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt
from rollout.tasks.judged_response import JudgedResponse
from rollout.tasks.reward_error import RewardError
from rollout.tasks.score import Score
from tests.tools.fleet_peers import until

ROWS = 20  # of the model's embedding; the demo's tokenizer has 16 tokens, and one more here, 16


class Copying:
    """Environments of a task whose right answer is 12; a text that is listed in ``failing`` cannot be judged."""

    def __init__(self, judges_groups: bool = False) -> None:
        self.task = TaskDescription("copying", judges_groups=judges_groups)
        self.seen: list[list[str]] = []
        self.failing: tuple[str, ...] = ()

    async def score(self, prompt: Prompt, responses: Sequence[JudgedResponse]) -> list[Score | RewardError]:
        texts = [response.text for response in responses]
        self.seen.append(texts)
        return [
            RewardError("reward_error", "scripted") if text in self.failing else Score(float(text == "12"), {})
            for text in texts
        ]


class Scripted:
    """Engines that answer with given responses: token ids, a whole response, or an error to raise."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self._answers = list(answers)
        self.affinities: list[str] = []
        self.gates: dict[int, asyncio.Event] = {}

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Any) -> list[Response]:
        return [self._response(answer) for answer in self._answers]

    async def generate_one(self, prompt: Sequence[int], sampling: Any, affinity: str = "") -> Response:
        number = len(self.affinities)
        self.affinities.append(affinity)
        if number in self.gates:
            await self.gates[number].wait()
        return self._response(self._answers[number])

    def _response(self, answer: Any) -> Response:
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Response):
            return answer
        return Response(answer, "stop", [VersionSpan(0, 0, len(answer))], stopped_by=answer[-1])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo's model with four rows more in its embedding, and one token of them that only the tokenizer's files add."""
    write_model(tmp_path, seed=0)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": ROWS}))
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    tokenizer["added_tokens"] += [{"id": 16, "content": "more", **flags}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return tmp_path


def asked(*indices: int) -> list[AskedPrompt]:
    return [AskedPrompt(0, index, Prompt(f"prompt-{index}", "12=")) for index in indices]


def generator(
    model: Path, engines: Scripted, environments: Copying, responses: int, player: Any = None, **sampling: Any
) -> GroupGenerator:
    config = WorkerConfig.parse(
        {
            "gateway": "127.0.0.1:1", "model": model, "state_dir": model, "log_dir": model, "allowed_uris": ["file:///w"],
            "sampling": {"responses": responses, "max_new_tokens": 8, **sampling},
        },
        source="test",
    )  # fmt: skip
    task = TaskConfig(name="m:Copying", label="copies")
    parts: Any = (config, task, engines, environments, player, Tokenizer(model))
    return GroupGenerator(*parts)


async def made(model: Path, answers: Sequence[Any], **sampling: Any) -> tuple[rollout_pb2.Group | Withdrawal, Copying]:
    environments = Copying()
    groups = generator(model, Scripted(answers), environments, len(answers), **sampling)
    return await only(groups), environments


async def only(groups: GroupGenerator) -> rollout_pb2.Group | Withdrawal:
    """What came of one prompt."""
    (made,) = (await groups.generate(asked(7))).groups
    assert (made.asked.index, made.asked.prompt.prompt_id) == (7, "prompt-7")
    return made.group


def parts_of(group: rollout_pb2.Group | Withdrawal) -> list[tuple[float, str, list[int]]]:
    """Reward, reason and tokens of every response."""
    assert isinstance(group, rollout_pb2.Group), group
    return [(one.reward, one.unscored, decode_ids(one.tokens)) for one in group.responses]


LONG = {"max_new_tokens": 65}  # one by one


@pytest.mark.parametrize("sampling", [{}, LONG], ids=["batch", "single"])
async def test_a_token_that_stands_for_no_text_is_not_sent_and_earns_no_reward(model: Path, sampling: dict[str, Any]):
    bad = [1, 17, 2, EOS]
    group, environments = await made(model, [[1, 2, EOS], bad, [1, EOS]], **sampling)
    assert parts_of(group) == [(1.0, "", [1, 2, EOS]), (0.0, "unknown_token", []), (0.0, "", [1, EOS])]
    assert sorted(text for texts in environments.seen for text in texts) == ["1", "12"]


async def test_a_group_that_will_have_fewer_than_two_scored_responses_is_not_judged(model: Path):
    group, environments = await made(model, [[1, 2, EOS], [1, 17, 2, EOS]])
    assert group == Withdrawal("unknown_token", "response 1: the tokenizer has no token 17")
    assert environments.seen == []


async def test_tokens_that_only_the_tokenizer_adds_and_unknown_end_tokens_are_fine(model: Path):
    group, environments = await made(model, [[1, 2, EOS], [1, 16, EOS], [1, 2, 19]])
    assert [reward for reward, _, _ in parts_of(group)] == [1.0, 0.0, 1.0]
    assert environments.seen == [["12", "1more", "12"]]


@pytest.mark.parametrize("sampling", [{}, LONG], ids=["batch", "single"])
async def test_what_is_aborted_or_cannot_be_judged_is_unscored_with_its_tokens(model: Path, sampling: dict[str, Any]):
    partly = Response([1, 2], "abort", [VersionSpan(3, 0, 2)], message="full")
    nothing = Response([1], "abort", [], message="full")
    environments = Copying()
    environments.failing = ("5",)
    answers = [[1, 2, EOS], partly, nothing, [5, EOS], [3, EOS]]
    groups = generator(model, Scripted(answers), environments, len(answers), **sampling)
    (made,) = (await groups.generate(asked(7))).groups
    assert parts_of(made.group) == [
        (1.0, "", [1, 2, EOS]),
        (0.0, "aborted", [1, 2]),
        (0.0, "aborted", []),
        (0.0, "reward_error", [5, EOS]),
        (0.0, "", [3, EOS]),
    ]
    assert made.rewards == [1.0, 0.0]
    assert [outcome.text for outcome in made.outcomes] == ["12", "12", "1", "5", "3"]
    assert [len(outcome.segments) for outcome in made.outcomes] == [1, 1, 0, 1, 1]


async def test_a_group_with_one_scored_response_is_withdrawn_with_the_first_reason(model: Path):
    environments = Copying()
    environments.failing = ("5", "6")
    groups = generator(model, Scripted([[1, 2, EOS], [5, EOS], [6, EOS]]), environments, 3)
    assert await only(groups) == Withdrawal("reward_error", "scripted")


@pytest.mark.parametrize("sampling", [{}, LONG], ids=["batch", "single"])
async def test_a_truncated_response_is_trained_or_withdraws_its_group_unjudged(model: Path, sampling: dict[str, Any]):
    answers = [[1, 2, EOS], Response([1, 2], "length", [VersionSpan(0, 0, 2)])]
    group, _ = await made(model, answers, **sampling)
    assert [reward for reward, _, _ in parts_of(group)] == [1.0, 1.0]
    group, environments = await made(model, answers, truncated="withdraw", **sampling)
    assert isinstance(group, Withdrawal)
    assert group.reason == "truncated"
    assert len(environments.seen) == (1 if sampling else 0)  # single: what was done before is judged already


async def test_a_straggler_does_not_keep_its_siblings_from_being_judged(model: Path):
    engines, environments = Scripted([[1, EOS], [1, 2, EOS], [3, EOS]]), Copying()
    engines.gates[1] = asyncio.Event()
    groups = generator(model, engines, environments, 3, **LONG)
    assert not groups.batches
    slots = ResponseSlots(lambda: 8)
    slots.begin(3)
    running = asyncio.create_task(groups.generate(asked(7), slots))
    await until(lambda: len(environments.seen) == 2, "two judged responses")
    assert slots.under_way == 1
    engines.gates[1].set()
    (made,) = (await running).groups
    assert slots.under_way == 0
    assert [reward for reward, _, _ in parts_of(made.group)] == [0.0, 1.0, 0.0]
    assert len(set(engines.affinities)) == 1  # one prefix cache has the prompt
    assert engines.affinities[0]


async def test_responses_that_are_judged_together_are_judged_when_all_are_there(model: Path):
    engines, environments = Scripted([[1, EOS], [1, 2, EOS], [3, EOS]]), Copying(judges_groups=True)
    groups = generator(model, engines, environments, 3, **LONG)
    assert isinstance(await only(groups), rollout_pb2.Group)
    assert environments.seen == [["1", "12", "3"]]


async def test_an_engine_that_fails_fails_one_response_and_logits_that_are_not_finite_the_group(model: Path):
    group, _ = await made(model, [[1, 2, EOS], EngineError("scripted"), [3, EOS]], **LONG)
    assert [reason for _, reason, _ in parts_of(group)] == ["", "aborted", ""]
    with pytest.raises(NotFiniteError, match="scripted"):
        await made(model, [[1, 2, EOS], NotFiniteError("scripted"), [3, EOS]], **LONG)


async def test_a_truncated_softmax_is_said(model: Path):
    group, _ = await made(model, [[1, EOS], [2, EOS]], temperature=0.5)
    assert isinstance(group, rollout_pb2.Group)
    assert group.temperature == 0.5
    assert not group.HasField("sampling")
    group, _ = await made(model, [[1, EOS], [2, EOS]], top_k=5, min_p=0.25)
    assert isinstance(group, rollout_pb2.Group)
    assert (group.sampling.top_k, group.sampling.min_p, group.sampling.HasField("top_p")) == (5, 0.25, False)


async def test_short_responses_are_batched_and_long_ones_are_not(model: Path):
    def batches(tokens: int) -> bool:
        return generator(model, Scripted([]), Copying(), 2, max_new_tokens=tokens).batches

    assert batches(64)
    assert not batches(65)


async def test_with_slots_short_responses_are_made_one_by_one_too(model: Path):
    engines, slots = Scripted([[1, EOS], [1, 2, EOS]]), ResponseSlots(lambda: 8)
    groups = generator(model, engines, Copying(), 2)
    assert groups.batches
    slots.begin(2)
    (made,) = (await groups.generate(asked(7), slots)).groups
    assert [reward for reward, _, _ in parts_of(made.group)] == [0.0, 1.0]
    assert (len(engines.affinities), slots.under_way) == (2, 0)


async def test_several_prompts_become_groups_of_their_own_under_the_tasks_label(model: Path):
    cut = Response([1, 2], "length", [VersionSpan(0, 0, 2)])
    groups = generator(model, Scripted([[1, EOS], [1, 2, EOS], [3, EOS], cut]), Copying(), 2)
    made = await groups.generate(asked(1, 2))
    assert [[reward for reward, _, _ in parts_of(one.group)] for one in made.groups] == [[0.0, 1.0], [0.0, 1.0]]
    assert [(group.prompt_id, group.task) for group in made.submitted] == [
        ("prompt-1", "copies"),
        ("prompt-2", "copies"),
    ]
    assert [one.truncated for one in made.groups] == [0, 1]
    assert made.begun <= made.answered <= made.scored


class Player:
    """Plays episodes of one turn."""

    async def play(self, prompt: Prompt, prompt_ids: Sequence[int], affinity: str) -> ResponseOutcome:
        segment = SegmentRecord([1, 2], [3, EOS], [VersionSpan(0, 0, 2)], "first")
        return ResponseOutcome([segment], "stop", Score(float(prompt.prompt_id == "prompt-7")))


async def test_episodes_give_back_their_slots(model: Path):
    groups, slots = generator(model, Scripted([]), Copying(), 2, Player()), ResponseSlots(lambda: 8)
    assert (groups.batches, groups.plays) == (False, True)
    slots.begin(2)
    (made,) = (await groups.generate(asked(7), slots)).groups
    assert (made.rewards, slots.under_way) == ([1.0, 1.0], 0)
