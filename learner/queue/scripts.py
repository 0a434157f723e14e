"""Loads the Lua scripts, each of which Redis runs atomically. The head of a script says what it does and returns."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Script:
    """A Lua script.

    Attributes:
        name: its file name without ".lua".
        text: its source.
        sha: hexadecimal SHA-1 of the source, by which Redis caches it.
    """

    name: str
    text: str
    sha: str


@functools.cache
def script(name: str) -> Script:
    """Loads the script ``lua/<name>.lua`` of this package."""
    text = resources.files("learner.queue").joinpath("lua", f"{name}.lua").read_text()
    # SHA-1 is what Redis's EVALSHA is defined by; nothing secret depends on it.
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
