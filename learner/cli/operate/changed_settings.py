"""Names and values of settings as `leeway ctl set` takes them: short names, values as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from learner.cli.run.run_directory import RunError
from learner.config.changeable import changeable
from runtime.settings import toml_value

_FLEET = "<fleet>"
_NAME = "[A-Za-z0-9._-]{1,64}"


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """Reads ``NAME=VALUE`` words; returns whole names with values as JSON.

    Raises:
        RunError: a word is no assignment, a name is ambiguous or given twice, or JSON has no such value.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise RunError(f"{text!r}: expected NAME=VALUE, such as lr=1e-5; `leeway ctl settings` lists the names")
        whole = full_name(name.strip())
        if whole in found:
            raise RunError(f"{whole} is given twice")
        try:
            found[whole] = json.dumps(toml_value(value.strip()), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RunError(f"{whole} = {value.strip()}: expected a number, text, true, false or a list") from error
    return found


def full_name(name: str) -> str:
    """Returns the whole name of a setting: ``lr`` is optimizer.lr, where no other changeable setting ends so.

    A name that no changeable setting ends with is returned as it is: the gateway says why it cannot be changed.

    Raises:
        RunError: several settings end so.
    """
    name = name.removeprefix("learner.")
    found = [f"{kept}{name}" for kept, rest in _endings() if re.fullmatch(_pattern(rest), name)]
    if name in found or not found:
        return name
    if len(set(found)) > 1:
        raise RunError(f"{name!r} may be {' or '.join(sorted(set(found)))}: write more of the name")
    return found[0]


def _endings() -> Iterator[tuple[str, str]]:
    """Every changeable name, cut in two before each of its parts; a fleet's name is no beginning."""
    for whole in changeable():
        parts = whole.split(".")
        for place, part in enumerate(parts):
            kept = "".join(f"{one}." for one in parts[:place])
            if part != _FLEET and _FLEET not in kept:
                yield kept, ".".join(parts[place:])


def _pattern(name: str) -> str:
    return re.escape(name).replace(re.escape(_FLEET), _NAME)
