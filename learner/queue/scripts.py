"""The Lua scripts: what must happen in Redis all at once, or not at all. Each file says what it does and returns."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Script:
    """A script and the name Redis caches it under."""

    name: str
    text: str
    sha: str


@functools.cache
def script(name: str) -> Script:
    """The script ``lua/<name>.lua`` of this package."""
    text = resources.files("learner.queue").joinpath("lua", f"{name}.lua").read_text()
    # SHA-1 is what Redis's EVALSHA is defined by; nothing secret depends on it.
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
