"""What a conformance run has found: one verdict for each rule of the contract."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "broken", "not tried"]

_MOST_FAULTS = 5  # of a rule: more of them say nothing new


@dataclass
class Rule:
    """A rule of the contract and what became of it.

    Attributes:
        name: short name, the same in every run.
        text: what the contract asks.
        state: "not tried" until something has happened that the rule speaks of.
        faults: the first things that were seen to break it, each once.
        why: why it was not tried.
    """

    name: str
    text: str
    state: State = "not tried"
    faults: list[str] = field(default_factory=list)
    why: str = ""


class Report:
    """The rules of one side of the contract, each with its verdict.

    Args:
        rules: name and text of each rule.
    """

    def __init__(self, rules: dict[str, str]) -> None:
        self._rules = {name: Rule(name, text) for name, text in rules.items()}

    def kept(self, name: str) -> None:
        """Notes that a rule was tried and held this time."""
        rule = self._rules[name]
        if rule.state == "not tried":
            rule.state = "ok"

    def broken(self, name: str, fault: str) -> None:
        """Notes what breaks a rule."""
        rule = self._rules[name]
        rule.state = "broken"
        if fault not in rule.faults and len(rule.faults) < _MOST_FAULTS:
            rule.faults.append(fault)

    def check(self, name: str, holds: bool, fault: str) -> bool:
        """Notes that a rule was tried: it holds, or ``fault`` says what was seen. Returns ``holds``."""
        if holds:
            self.kept(name)
        else:
            self.broken(name, fault)
        return holds

    def skipped(self, name: str, why: str) -> None:
        """Says why a rule cannot be tried."""
        self._rules[name].why = why

    @property
    def rules(self) -> list[Rule]:
        """Every rule, in order."""
        return list(self._rules.values())

    @property
    def conforms(self) -> bool:
        """Whether no rule is broken and at least one was tried."""
        states = {rule.state for rule in self._rules.values()}
        return "broken" not in states and "ok" in states

    def lines(self) -> list[str]:
        """Returns the report as text, one line for a rule and one for each fault."""
        lines = []
        for rule in self._rules.values():
            lines.append(f"{rule.state:>9}  {rule.name}: {rule.text}")
            if rule.state == "not tried" and rule.why:
                lines.append(f"{'':>9}    {rule.why}")
            lines += [f"{'':>9}    {fault}" for fault in rule.faults]
        counts = {state: sum(rule.state == state for rule in self._rules.values()) for state in ("ok", "broken")}
        untried = len(self._rules) - sum(counts.values())
        return [*lines, f"{counts['ok']} rules kept, {counts['broken']} broken, {untried} not tried"]
