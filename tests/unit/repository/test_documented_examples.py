"""The examples of README and of the docs as they stand: tasks, agents, settings, commands. Fleets: tests/service."""

from __future__ import annotations

import asyncio
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

from learner.cli.app import app
from learner.cli.run.run_file import RunFile
from rollout.environments.prompt_file import PromptFile
from rollout.tasks.base import Prompt, Task
from tests.tools.documented import REPOSITORY, block, blocks, names_of

AGENTS = ("README.md", "docs/agents.md")
QUESTIONS = "# questions.jsonl"


class ScriptedOpenAi:
    """Answers every call of chat.completions.create with the next of ``answers``."""

    def __init__(self, *answers: str) -> None:
        self.asked: list[list[Any]] = []
        self._answers = iter(answers)
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self._create))

    async def _create(self, model: str, messages: list[Any]) -> Any:
        assert model == "policy"
        self.asked.append(list(messages))
        message = SimpleNamespace(role="assistant", content=next(self._answers))
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])


def program(path: str, containing: str) -> str:
    return block(path, containing).split(QUESTIONS)[0].split("\nPYTHONPATH")[0]


@pytest.mark.parametrize(
    ("path", "header"), [("README.md", ""), ("rollout/tasks/base.py", "from rollout.tasks.base import *\n")]
)
def test_the_documented_task_asks_scores_and_solves(path: str, header: str):
    task: Task = names_of(header + program(path, "class Reverse(Task)"))["Reverse"](seed=1)
    prompt = task.prompt(3)
    assert task.prompt(3) == prompt != task.prompt(4)
    assert prompt.text == prompt.prompt_id + "="
    assert task.reward(prompt, prompt.prompt_id[::-1]) == 1.0
    assert task.reward(prompt, "x") == 0.0


def test_the_documented_environment_of_several_turns_plays():
    task: Task = names_of("from rollout.tasks.base import *\n" + program("rollout/tasks/base.py", "class Guess"))[
        "Guess"
    ]()

    class Policy:
        async def chat(self, messages: list[Any]) -> dict[str, str]:
            return {"role": "assistant", "content": str(len(messages))}

    policy: Any = Policy()
    assert asyncio.run(task.rollout(task.prompt(0), policy)) == 1.0  # its first answer is 1, which is the number
    assert asyncio.run(task.rollout(task.prompt(2), policy)) == 0.75  # its second one is 3
    assert asyncio.run(task.rollout(task.prompt(1), policy)) == 0.0


@pytest.mark.parametrize("path", AGENTS)
@pytest.mark.parametrize(("answer", "reward"), [(" 366\n", 1.0), ("365", 0.0)])
def test_the_documented_agent_plays(path: str, answer: str, reward: float):
    run = names_of(program(path, "async def run(prompt, client)"))["run"]
    client = ScriptedOpenAi("366, I think", answer)
    prompt = Prompt("p", messages=[{"role": "user", "content": "How many days?"}], data={"answer": 366})
    assert asyncio.run(run(prompt, client)) == reward
    assert [len(messages) for messages in client.asked] == [1, 3]


def test_the_documented_questions_are_prompts(tmp_path: Path):
    text = block("docs/agents.md", QUESTIONS).split(QUESTIONS)[1].splitlines()[1]
    (tmp_path / "questions.jsonl").write_text(text + "\n")
    prompts = PromptFile(path=str(tmp_path / "questions.jsonl"))
    prompts.load()
    assert prompts.prompt(0).data["answer"] == 366


BASE = {"run": {"name": "r"}, "model": {"path": "demo"}, "learner": {"steps": 1}}
MISSING = {
    "rollout": {"tls": {"ca": "ca.pem", "certificate": "w.pem", "key": "w.key"}}
}  # the other half of gateway.tls


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = [key for key in one if isinstance(one[key], dict) and isinstance(other.get(key), dict)]
    return {**one, **other, **{key: merged(one[key], other[key]) for key in both}}


def settings_blocks() -> list[str]:
    return [one for one in blocks("README.md") if re.match(r"(# .*\n)*\[+[a-z.]+\]", one)]


@pytest.mark.parametrize("text", settings_blocks(), ids=lambda text: text.splitlines()[0])
def test_the_documented_settings_are_a_run_file(text: str):
    values = merged(BASE, tomllib.loads(text))
    if "tls" in values.get("gateway", {}):
        values = merged(values, MISSING)
    made = RunFile.parse(values, "README.md")
    assert made.learner.steps


def test_there_are_documented_settings():
    assert len(settings_blocks()) >= 2


def commands(text: str) -> set[tuple[str, ...]]:
    """The commands `leeway a b` of a text, as ("a", "b"); words that are alternatives ("list|show") one by one."""
    found = set()
    for words in re.findall(
        r"(?<!-n )\bleeway (?!leeway)((?:[a-z][a-z-]*(?:\|[a-z-]+)*)(?: [a-z][a-z-]*(?:\|[a-z-]+)*)?)(?=[ `\n])", text
    ):
        first, *rest = words.split()
        found |= {(first, second) for second in (rest[0].split("|") if rest else [""])}
    return found


@pytest.mark.parametrize("path", ["README.md", "docs/agents.md", "deploy/README.md", "deploy/runbook.md"])
def test_every_documented_command_exists(path: str):
    known: Any = get_command(app)
    text = (REPOSITORY / path).read_text()
    quoted = "\n".join(
        [*re.findall(r"`([^`]*\bleeway [^`]+)`", text), *(one for one in blocks(path) if "leeway " in one)]
    )
    found = commands(quoted + "\n")
    assert found
    for first, second in found:
        assert first in known.commands, f"{path}: leeway {first}"
        group = known.commands[first]
        if hasattr(group, "commands") and second:
            assert second in group.commands, f"{path}: leeway {first} {second}"


def test_every_documented_target_of_make_exists():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    documented = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(blocks("README.md"))))
    assert documented - targets == set()
