"""`python -m tests.tools.preset_reference --write`: the table of presets in docs/objectives.md, made from the code.

Without --write, exits 1 when the committed table differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

from learner.cli.settings.keys import default_text
from learner.config.presets import PRESETS

FILE = Path(__file__).parents[2] / "docs" / "objectives.md"
BEGIN, END = "<!-- presets: begin -->", "<!-- presets: end -->"


def table() -> str:
    """The table between its two marks."""
    lines = [BEGIN, "| preset | what it is | keys of [learner] that it sets | source |", "|---|---|---|---|"]
    for name, preset in PRESETS.items():
        keys = ", ".join(f"`{key}` = {default_text(value)}" for key, value in preset.flat().items())
        lines.append(f"| `{name}` | {preset.summary} | {keys} | {preset.source} |")
    return "\n".join([*lines, END])


def text() -> str:
    """The document with the table as it should be."""
    head, begin, rest = FILE.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{FILE} has no place for the table: write {BEGIN} and {END} where it belongs")
    return head + table() + tail


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(text())
    elif FILE.read_text() != text():
        sys.exit(
            f"{FILE} has other presets than the code: run `python -m tests.tools.preset_reference --write` and commit"
        )
