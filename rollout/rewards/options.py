"""The options of a reward: read from its constructor, described by its docstring, checked against its annotations."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any

_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text", dict: "a table", list: "a list"}
_ARGUMENT = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")


@dataclass(frozen=True)
class RewardOption:
    """One option.

    Attributes:
        name: its name.
        kinds: the types that it may have.
        default: its default; ``inspect.Parameter.empty`` where it must be given.
        text: what it means.
    """

    name: str
    kinds: tuple[type, ...]
    default: Any
    text: str

    @property
    def expected(self) -> str:
        """The types in words."""
        return " or ".join(_NAMES.get(kind, kind.__name__) for kind in self.kinds) or "anything"


def options_of(cls: type) -> list[RewardOption]:
    """Returns the options of a reward's class, in their order."""
    texts = _described(inspect.getdoc(cls) or "")
    constructor = cls.__init__
    hints = typing.get_type_hints(constructor)
    return [
        RewardOption(name, _kinds(hints.get(name)), parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]


def problem(cls: type, options: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with the names and types of options; None where nothing is."""
    known = {option.name: option for option in options_of(cls)}
    for name, value in options.items():
        if name not in known:
            return f"options.{name}: there is no such option; it has {', '.join(known) or 'none'}"
        kinds = known[name].kinds
        if kinds and not _fits(value, kinds):
            return f"options.{name} = {value!r:.80}: expected {known[name].expected}"
    missing = [one.name for one in known.values() if one.default is inspect.Parameter.empty and one.name not in options]
    return f"options.{missing[0]}: must be set" if missing else None


def _kinds(hint: Any) -> tuple[type, ...]:
    arguments = typing.get_args(hint) if hint is not None else ()
    found = arguments or ((hint,) if hint is not None else ())
    return tuple(typing.get_origin(one) or one for one in found if one is not NoneType)


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and float in kinds:
        return True
    return isinstance(value, kinds)


def _described(docstring: str) -> dict[str, str]:
    """The texts of the section Args, by name."""
    _, _, section = docstring.partition("\nArgs:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if (begun := _ARGUMENT.match(line)) is not None:
            names = begun[1].split(", ")
            texts |= dict.fromkeys(names, begun[2])
        else:
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts
