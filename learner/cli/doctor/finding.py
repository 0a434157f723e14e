"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        check: what was looked at, a word or two.
        state: ok; warn: it will run, perhaps not as you think; fail: it will not, or will lose something.
        found: what there is, with numbers.
        fix: what to do; "" when ok.
    """

    check: str
    state: State
    found: str
    fix: str = ""

    @property
    def line(self) -> str:
        return f"{self.state:4}  {self.check:14}  {self.found}" + (f"; {self.fix}" if self.fix else "")


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def warn(check: str, found: str, fix: str) -> Finding:
    return Finding(check, "warn", found, fix)


def fail(check: str, found: str, fix: str) -> Finding:
    return Finding(check, "fail", found, fix)


def size(count: float) -> str:
    """Bytes as people read them, in powers of ten."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
