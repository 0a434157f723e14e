"""The registry of rewards as text, for `python -m rollout rewards`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from rollout.rewards.options import options_of
from rollout.rewards.registry import BUILT_IN, GROUP, OWN, RewardPart, entry_points, load_target
from rollout.rewards.reward_function import RewardFunction

_WHERE = {
    "quick": "in the worker's process",
    "slow": "in processes that judge",
    "waiting": "in processes, many at once",
}


def lines() -> Iterator[str]:
    """Yields the lines that describe every reward with its options."""
    yield "Rewards, for [[rollout.task.reward]] (name, part, weight, options). docs/rewards.md explains them."
    for name, target in BUILT_IN.items():
        yield ""
        yield f"{name}  ({_WHERE[RewardPart(name).kind]})"
        yield from _described(load_target(target))
    yield ""
    yield f"{OWN}  (where the task is judged)"
    yield "    What the task itself says of the response, as one part."
    yield ""
    yield "module:function  (in processes that judge)"
    yield "    A function of yours. Its parameters say what it gets: prompt, response, answer, row, data, finished, tokens,"
    yield "    finish, prompt_id. Other parameters are options."
    for name, point in entry_points().items():
        yield ""
        yield f"{name}  ({point.value}, entry point of {GROUP})"
        try:
            found = point.load()
        except Exception as error:  # noqa: BLE001 - another package's code: whatever it raises is shown
            yield f"    cannot be loaded: {type(error).__name__}: {error}"
            continue
        if isinstance(found, type) and issubclass(found, RewardFunction):
            yield from _described(found)


def _described(cls: type) -> Iterator[str]:
    text = inspect.getdoc(cls) or ""
    for line in text.partition("\nArgs:\n")[0].strip().splitlines():
        yield f"    {line}".rstrip()
    for option in options_of(cls):
        needed = option.default is inspect.Parameter.empty
        default = "must be set" if needed else f"default {option.default!r}"
        yield f"      {option.name} ({option.expected}, {default if len(default) < 60 else 'has a default'}): {option.text}"
