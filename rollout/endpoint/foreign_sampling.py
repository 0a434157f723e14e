"""What a call asks for and does not get: sampling other than the worker's, and hints that this policy does not know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from rollout.config import SamplingConfig
from rollout.endpoint.api_error import bad, unsupported

_NUMBERS = ("temperature", "top_p", "top_k", "min_p")
# They steer other models' answers; here there is nothing to set. A value that asks for nothing special is in the list.
_HINTS: Mapping[str, tuple[Any, ...]] = {
    "seed": (),
    "reasoning_effort": (),
    "verbosity": (),
    "parallel_tool_calls": (True,),
    "thinking": (),
    "output_config": (),
}
OVERRIDABLE = (*_NUMBERS, *_HINTS)
# The model decides itself whether it calls a tool, which one, how many, and with which arguments.
_ONE_CALL, _STRICT, _CHOICE = "parallel_tool_calls", "strict", "tool_choice"
PARAMETERS = (*OVERRIDABLE, _STRICT, _CHOICE)


class ForeignSampling:
    """Decides about parameters of a call that differ from the worker's: all calls of a run draw tokens alike.

    Args:
        sampling: the worker's.
        policy: "override": the worker's values are used; "refuse": the call is refused.
    """

    def __init__(self, sampling: SamplingConfig, policy: Literal["override", "refuse"]) -> None:
        self._own = {
            "temperature": (sampling.temperature,),
            "top_p": (1.0 if sampling.top_p is None else sampling.top_p,),
            "top_k": (-1, 0) if sampling.top_k is None else (sampling.top_k,),
            "min_p": (0.0 if sampling.min_p is None else sampling.min_p,),
        }
        self._policy = policy

    def overridden(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the names of the parameters in ``body`` that are not obeyed.

        Raises:
            ApiError: a sampling parameter is no number, or is another than the worker's and the settings refuse that.
        """
        found = [name for name, usual in _HINTS.items() if name in body and body[name] not in usual]
        found += _about_tools(body.get("tool_choice"), body.get("tools"))
        for name in _NUMBERS:
            value = body.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise bad(name, value, "a number")
            if value in self._own[name]:
                continue
            if self._policy == "refuse":
                own = self._own[name][0]
                raise unsupported(
                    name, value, f"this run samples with {own} and endpoint.foreign_sampling refuses others"
                )
            found.append(name)
        return tuple(found)


def _about_tools(choice: Any, tools: Any) -> Iterator[str]:
    if choice == "required" or (isinstance(choice, dict) and choice.get("type") in ("any", "tool", "function")):
        yield _CHOICE
    if _asks(choice, "disable_parallel_tool_use"):
        yield _ONE_CALL
    listed = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    if any(_asks(tool, _STRICT) or _asks(tool.get("function"), _STRICT) for tool in listed):
        yield _STRICT


def _asks(value: Any, name: str) -> bool:
    return isinstance(value, dict) and value.get(name) is True
