"""A reward that is a function of a user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rollout.rewards.reward_function import RewardFunction, RewardInput, Value

_GIVEN = ("prompt", "response", "answer", "row", "data", "finished", "tokens", "finish", "prompt_id")


class PythonFunction(RewardFunction):
    """A function, called with what its parameters are named after.

    prompt (text, or messages), response (text), answer, row (mapping), data (Prompt.data), finished (the text without its
    reasoning, or None), tokens, finish, prompt_id; other parameters are options. It returns a number or named numbers, and
    may be ``async def``.

    Args:
        function: the function.
        options: values of its other parameters.

    Raises:
        TypeError: its parameters are not these.
    """

    def __init__(self, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self.function = function
        self._options = dict(options)
        parameters = inspect.signature(function).parameters
        takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        named = [name for name, one in parameters.items() if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
        unknown = [name for name in options if (name not in named and not takes_all) or name in _GIVEN]
        if unknown:
            own = [name for name in named if name not in _GIVEN]
            raise TypeError(f"options {', '.join(unknown)}: its own parameters are {', '.join(own) or 'none'}")
        missing = [
            name
            for name in named
            if name not in _GIVEN and name not in options and parameters[name].default is inspect.Parameter.empty
        ]
        if missing:
            raise TypeError(f"its parameters {', '.join(missing)} are neither options nor one of {', '.join(_GIVEN)}")
        self._wanted = _GIVEN if takes_all else tuple(name for name in _GIVEN if name in named)

    @property
    def waits(self) -> bool:
        """Whether it is a coroutine."""
        return inspect.iscoroutinefunction(self.function)

    def value(self, asked: RewardInput) -> Value | Any:
        prompt, response = asked.prompt, asked.response
        given = {
            "prompt": list(prompt.messages) if prompt.messages else prompt.text,
            "response": response.text,
            "answer": asked.answer,
            "row": asked.row,
            "data": prompt.data,
            "finished": asked.finished,
            "tokens": response.tokens,
            "finish": response.finish,
            "prompt_id": prompt.prompt_id,
        }
        return self.function(**{name: given[name] for name in self._wanted}, **self._options)
