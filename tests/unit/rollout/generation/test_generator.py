"""Groups made of engine responses: which are scored, and which are withdrawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leeway.v1 import rollout_pb2
from rollout.config import SamplingConfig
from rollout.data.demo_model import EOS, write_model
from rollout.data.tokenizer import Tokenizer
from rollout.engine.sglang import Response, VersionSpan
from rollout.generation.generator import GroupGenerator
from rollout.generation.withdrawal import Withdrawal
from rollout.tasks import Prompt, TaskError, load_task
from rollout.tasks.score import Score

ROWS = 20  # of the model's embedding; the demo's tokenizer has 16 tokens, and one more here, 16


class Copying:
    """A task whose right answer is 12."""

    name = "copying"
    stop: tuple[str, ...] = ()

    def prompt(self, index: int) -> Prompt:
        return Prompt(f"prompt-{index}", "12=")


class Exact:
    """Scores a response 1 if it reads 12, and keeps what it was asked to score."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def score(self, prompt: Prompt, texts: Sequence[str]) -> list[Score]:
        self.seen += texts
        return [Score(float(text == "12"), {}) for text in texts]


class Scripted:
    """A pool whose engine answers with given tokens."""

    def __init__(self, answers: list[list[int]]) -> None:
        self._answers = answers

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Any) -> list[Response]:
        return [Response(ids, "stop", [VersionSpan(0, 0, len(ids))], stopped_by=ids[-1]) for ids in self._answers]


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


async def made(model: Path, answers: list[list[int]]) -> tuple[rollout_pb2.Group | Withdrawal, Exact]:
    rewards, sampling = Exact(), SamplingConfig(responses=len(answers), max_new_tokens=8)
    parts: Any = (sampling, Scripted(answers), Copying(), rewards, Tokenizer(model))
    return (await GroupGenerator(*parts).generate([7])).groups[7], rewards


async def test_a_token_that_stands_for_no_text_earns_no_reward(model: Path):
    group, rewards = await made(model, [[1, 2, EOS], [1, 17, 2, EOS]])
    assert group == Withdrawal("unknown_token", "response 1: the tokenizer has no token 17")
    assert rewards.seen == []


async def test_tokens_that_only_the_tokenizer_adds_and_unknown_end_tokens_are_fine(model: Path):
    group, rewards = await made(model, [[1, 2, EOS], [1, 16, EOS], [1, 2, 19]])
    assert isinstance(group, rollout_pb2.Group)
    assert [response.reward for response in group.responses] == [1.0, 0.0, 1.0]
    assert rewards.seen == ["12", "1more", "12"]


async def test_a_task_that_has_no_prompt_for_an_index_ends_the_worker_with_its_name_and_line(model: Path):
    sampling: Any = SamplingConfig(responses=2)
    task = load_task("tests.tools.fleet_tasks:Rows", 0, {})
    parts: Any = (sampling, Scripted([]), task, Exact(), Tokenizer(model))
    with pytest.raises(
        TaskError,
        match=r"task\.name = 'rows': prompt\(3\) raised IndexError: .* at .*fleet_tasks\.py:\d+; .* it sets size",
    ):
        await GroupGenerator(*parts).generate([2, 3])
