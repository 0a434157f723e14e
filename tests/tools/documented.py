"""Reads the examples out of the documentation: indented blocks of a page or of a module's docstring, as programs."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


def blocks(path: str) -> list[str]:
    """Every indented block of a Markdown page, or of the docstring of a module, without its indentation."""
    text = (REPOSITORY / path).read_text()
    if path.endswith(".py"):
        text = ast.get_docstring(ast.parse(text)) or ""
    return list(_indented(text))


def block(path: str, containing: str) -> str:
    """The one block that contains a text."""
    (found,) = [one for one in blocks(path) if containing in one]
    return found


def names_of(program: str) -> dict[str, Any]:
    """Runs a program, and returns the names that it defines."""
    names: dict[str, Any] = {"__name__": "documented"}
    exec(compile(program, "<documented>", "exec"), names)  # our own documentation
    return names


def _indented(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in [*text.splitlines(), "end"]:
        if line.startswith("    ") or (lines and not line.strip()):
            lines.append(line)
        elif lines:
            yield textwrap.dedent("\n".join(lines)).strip() + "\n"
            lines = []
