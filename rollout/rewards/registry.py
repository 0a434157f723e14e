"""The registry of rewards: built-in ones, those of installed packages, and functions and classes of a user's own."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rollout.rewards.options import problem
from rollout.rewards.python_function import PythonFunction
from rollout.rewards.reward_function import RewardFunction
from rollout.tasks import TaskError

Kind = Literal["quick", "slow", "waiting"]

GROUP = "leeway.rewards"
OWN = "task"  # the task's own reward, as one part
BUILT_IN: Mapping[str, str] = {
    "exact": "rollout.rewards.exact:Exact",
    "regex": "rollout.rewards.regex:Regex",
    "numeric": "rollout.rewards.numeric:Numeric",
    "choice": "rollout.rewards.choice:Choice",
    "math": "rollout.rewards.mathematics:Mathematics",
    "json_schema": "rollout.rewards.json_schema:JsonSchema",
    "format": "rollout.rewards.response_format:ResponseFormat",
    "length": "rollout.rewards.length:Length",
    "http": "rollout.rewards.http_judge:HttpJudge",
    "llm_judge": "rollout.rewards.llm_judge:LlmJudge",
}
_QUICK = ("exact", "numeric", "choice", "format", "length")
_WAITING = ("http", "llm_judge")


@dataclass(frozen=True)
class RewardPart:
    """One part of a task's reward, as JSON can say it.

    Attributes:
        name: a reward of the registry, module:function or module:Class.
        part: its name among the parts; empty: the reward's name.
        weight: factor of its value.
        options: keyword arguments.
    """

    name: str
    part: str = ""
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name among the parts."""
        return self.part or self.name

    @property
    def kind(self) -> Kind:
        """Where it is judged, known without importing it.

        quick: in the worker's process; slow: in processes that judge one response at a time and can be killed; waiting: in
        processes that judge many at once, because they wait for others. A pattern of a user's own may run for hours on a
        response that does not fit it, so whatever has one is slow.
        """
        if self.name in _WAITING:
            return "waiting"
        return "quick" if self.name in _QUICK and "pattern" not in self.options else "slow"


def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Returns the rewards of installed packages, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def check_parts(parts: Sequence[RewardPart]) -> None:
    """Checks what can be checked without importing anything: names of parts, and weights.

    Raises:
        TaskError: two parts have one name, or a weight is not finite.
    """
    labels = [part.label for part in parts]
    for label, count in Counter(labels).items():
        if count > 1:
            raise TaskError(f"task.reward: {count} parts are called {label!r}: give each a part name of its own")
    for part in parts:
        if not math.isfinite(part.weight):
            raise TaskError(f"task.reward, part {part.label!r}: weight = {part.weight}: expected a finite number")


def make_reward(part: RewardPart) -> RewardFunction:
    """Creates a reward.

    Raises:
        TaskError: there is none of that name, or it does not take the options.
    """
    found = _found(part)
    where = f"task.reward, part {part.label!r} ({part.name})"
    cls = found if isinstance(found, type) and issubclass(found, RewardFunction) else None
    if cls is None and (isinstance(found, type) or not callable(found)):
        raise TaskError(f"{where}: expected a function or a subclass of rollout.rewards.reward_function.RewardFunction")
    wrong = None if cls is None else problem(cls, part.options)
    if wrong is not None:
        raise TaskError(f"{where}: {wrong}")
    try:
        return PythonFunction(found, part.options) if cls is None else cls(**part.options)
    except (TypeError, ValueError, LookupError, OSError) as error:
        told = error.args[0] if isinstance(error, LookupError) and error.args else error
        raise TaskError(f"{where}: {told}") from error


def load_target(target: str) -> Any:
    """Returns what module:name names. Raises ImportError or AttributeError."""
    module_name, _, member = target.partition(":")
    return getattr(importlib.import_module(module_name), member)


def _found(part: RewardPart) -> Any:
    where = f"task.reward, part {part.label!r}: name = {part.name!r}"
    try:
        if part.name in BUILT_IN:
            return load_target(BUILT_IN[part.name])
        if ":" in part.name:
            return load_target(part.name)
        points = entry_points()
        if part.name in points:
            return points[part.name].load()
    except (ImportError, AttributeError) as error:
        raise TaskError(f"{where}: cannot be imported: {error}") from error
    known = ", ".join((*BUILT_IN, *entry_points(), OWN))
    raise TaskError(f"{where}: no such reward: expected one of {known}, or module:function")
