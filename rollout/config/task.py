"""Settings of what is asked, of the agents that answer, and of how responses are scored."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from runtime.settings import Settings

_NOT_IN_LABELS = re.compile(r"[^A-Za-z0-9._-]")


class EpisodeLimits(Settings):
    """Limits of one episode; a response that reaches one is treated as ``task.over_limit`` says."""

    turns: int = Field(default=64, gt=0, description="generations")
    tokens: int | None = Field(
        default=None, gt=0, description="context and generated tokens of all segments; unset: what the run takes"
    )
    seconds: float = Field(default=600.0, gt=0, description="wall time from its start")
    memory_mb: int | None = Field(
        default=None,
        gt=0,
        description="resident memory, in MiB, of a process that runs judges or agents and of all that it started; over it, "
        "the process is killed and its episodes are tried once more; unset: no limit",
    )


class RewardConfig(Settings):
    """One part of a task's reward, from the registry of rewards."""

    name: str = Field(
        description="a reward of the registry (`leeway rewards` lists them), one of an installed package's entry points "
        "(leeway.rewards), or module:function"
    )
    part: str = Field(
        default="", max_length=64, description="name among the reward's parts; default: the reward's name"
    )
    weight: float = Field(default=1.0, allow_inf_nan=False, description="factor of its value in the sum")
    options: dict[str, Any] = Field(default={}, description="keyword arguments of the reward")


class RestConfig(Settings):
    """Prompts that teach nothing now are asked less often: all their responses are right, or all are wrong.

    Each worker remembers the groups that it made itself. Tasks whose prompts never end have no prompts that come back: none
    rests.
    """

    after: int = Field(
        default=0,
        ge=0,
        description="groups of a prompt in a row without contrast after which it rests; 0: every prompt is always asked",
    )
    passes: int = Field(
        default=2,
        gt=0,
        description="passes over the data for which it rests; then it is asked again: with contrast it is as any other, "
        "without it rests twice as long, up to 64 times",
    )


class TaskConfig(Settings):
    """A task: what is asked, which agent answers if not the model alone, and how responses are scored."""

    label: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]{0,64}$",
        description="the task's name in groups, metrics, files and evaluations; unset: what stands in name, or of "
        "module:Class the class. Labels of a mixture differ",
    )
    weight: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="share of the prompts, where [[rollout.task]] stands several times",
    )
    held_out: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the prompts, chosen by a digest of their ids, that are for evaluation and never trained on",
    )
    reward: tuple[RewardConfig, ...] = Field(
        default=(),
        description="[[rollout.task.reward]]: parts whose weighted sum is the reward, instead of the task's own judgement",
    )
    rest: RestConfig = RestConfig()
    name: str = Field(
        default="sort",
        description="a built-in task, module:Class (a task of your own), or module:function (an agent, which needs prompts); "
        "with command or remote only a label",
    )
    options: dict[str, Any] = Field(
        default={}, description="keyword arguments of the task, or of the prompts where an agent answers"
    )
    prompts: str = Field(
        default="",
        description="where an agent answers: what is asked: a built-in task, module:Class, or a .jsonl file of objects with "
        "prompt (text) or messages (OpenAI's form), perhaps id; the whole object is the prompt's data",
    )
    command: list[str] = Field(
        default=[],
        description="an agent as a program, started once per response: the prompt as JSON on stdin, OPENAI_BASE_URL, "
        "OPENAI_API_KEY, ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY in its environment, the reward as JSON on the last line of "
        "its stdout",
    )
    remote: bool = Field(
        default=False, description="agents elsewhere ask the endpoint for episodes, and post their rewards there"
    )
    python: Path | None = Field(
        default=None,
        description="interpreter, of another virtualenv perhaps, in which tasks and agents of your own run, and the tasks "
        "verifiers, reasoning-gym and openenv, which need the package that they are named after; unset: the worker's",
    )
    prompt_format: Literal["raw", "chat"] = Field(default="raw", description="chat: through the tokenizer's template")
    template: dict[str, Any] = Field(
        default={}, description="keywords for the chat template, such as enable_thinking = false"
    )
    on_change: Literal["refuse", "restart", "continue"] = Field(
        default="refuse",
        description="at a restart with other prompts than this worker has asked so far (other content of a file, seed or "
        "options): refuse: it does not start; restart: the new ones from their beginning; continue: at the same position",
    )
    processes: int = Field(
        default=1, gt=0, description="processes that run judges and agents; quick built-in tasks need none"
    )
    episodes: int = Field(
        default=64,
        gt=0,
        description="most episodes under way at once; new ones begin only while no call waits for an engine",
    )
    reward_timeout_s: float = Field(
        default=10.0, gt=0, description="limit of judging one response; one that is not judged by then is unscored"
    )
    limits: EpisodeLimits = EpisodeLimits()
    over_limit: Literal["unscored", "score"] = Field(
        default="unscored",
        description="episodes that reached a limit: unscored: no reward, no loss; score: as the agent's reward says, if it "
        "still gives one",
    )

    @model_validator(mode="before")
    @classmethod
    def _is_labelled(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("label"):
            return values
        agent = values.get("command") or values.get("remote")
        name = values.get("name", "agent" if agent else cls.model_fields["name"].default)
        return {**values, "label": default_label(name)} if isinstance(name, str) else values

    @model_validator(mode="after")
    def _one_agent(self) -> TaskConfig:
        if self.command and self.remote:
            raise ValueError("command and remote exclude each other: an agent is either started here or elsewhere")
        if (self.command or self.remote) and not self.prompts:
            what = "command" if self.command else "remote = true"
            raise ValueError(
                f"{what} needs prompts: a built-in task, module:Class, or a .jsonl file that says what to ask"
            )
        return self


def default_label(name: str) -> str:
    """Returns the label of a task that has none of its own: what stands in ``name``, of ``module:Class`` the class."""
    return _NOT_IN_LABELS.sub("_", name.rpartition(":")[2])[:64] or "task"


def _as_array(tasks: Any) -> Any:
    """A table alone is a mixture of one."""
    return [tasks] if isinstance(tasks, dict | TaskConfig) else tasks


def _as_mixture(tasks: tuple[TaskConfig, ...]) -> tuple[TaskConfig, ...]:
    if not tasks:
        raise ValueError("give one task at least")
    if sum(task.remote for task in tasks) > 1:
        raise ValueError(
            "remote = true stands in several tasks: a worker offers the episodes of one task to agents elsewhere; let other "
            "workers of the fleet have the others"
        )
    # Groups, metrics, cursor files and evaluations are told apart by it. Some file systems ignore case.
    labels = Counter(task.label.lower() for task in tasks)
    for task in tasks:
        if (count := labels[task.label.lower()]) > 1:
            raise ValueError(f"{count} tasks have the label {task.label!r}: set task.label, one of its own for each")
    return tasks


TaskMixture = Annotated[tuple[TaskConfig, ...], BeforeValidator(_as_array), AfterValidator(_as_mixture)]
