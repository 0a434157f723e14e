"""The report lists what operators have changed, and what is in force after it."""

from __future__ import annotations

from typing import Any

from learner.cli.report.changes_section import changes_section, in_force_after


def change(kind: str, number: int, **values: Any) -> dict[str, Any]:
    row = {"kind": "change", "time": 1000.0, "number": number, "change": kind, "operator": "ann", "step": number}
    return {**row, "content": {}, "refused": False, "reason": "", "old": {}, "new": {}, **values}


CHANGES = [
    change("set", 1, old={"optimizer.lr": "0.0001"}, new={"optimizer.lr": "1e-05"}),
    change("set", 2, new={"steps": "9"}),
    change("unset", 3, content={"names": ["steps"]}),
    change("set", 4, new={"optimizer.lr": "-1"}, refused=True, reason="<b>below 0</b>"),
    change("pause", 5),
    change("resume", 6),
    change("pause", 7),
]


def test_what_is_in_force_is_what_was_not_taken_back_or_refused():
    assert in_force_after(CHANGES) == {"optimizer.lr": "1e-05", "paused": True}
    assert in_force_after(CHANGES[:6]) == {"optimizer.lr": "1e-05"}
    assert in_force_after([]) == {}


def test_the_section():
    text = changes_section(CHANGES)
    for words in (
        "Changes by operators",
        "ann",
        "optimizer.lr=0.0001",
        "refused: &lt;b&gt;below 0",
        "in force at the end",
    ):
        assert words in text
    assert changes_section([]) == ""
