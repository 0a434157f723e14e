"""One result of a check, and the helpers that make and format results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One result of a check, printed as one line.

    Attributes:
        check: what was checked, in a word or two.
        state: "ok"; "warn": the run will start, but perhaps not do what was meant; "fail": it will not start, or will lose
            something.
        found: what the check found, with numbers.
        fix: what to do about it; "" when the state is "ok".
    """

    check: str
    state: State
    found: str
    fix: str = ""

    @property
    def line(self) -> str:
        """The finding as one line of text: state, check, what was found, and the fix if there is one."""
        return f"{self.state:4}  {self.check:14}  {self.found}" + (f"; {self.fix}" if self.fix else "")


def ok(check: str, found: str) -> Finding:
    """Makes a finding that needs no action."""
    return Finding(check, "ok", found)


def warn(check: str, found: str, fix: str) -> Finding:
    """Makes a finding that does not prevent a start, but probably is not what was meant."""
    return Finding(check, "warn", found, fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """Makes a finding that prevents a start or loses something."""
    return Finding(check, "fail", found, fix)


def size(count: float) -> str:
    """Formats a number of bytes in decimal units, such as ``1.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
