r"""The boxes of a response: \boxed{...}, \fbox{...}, \framebox{...}, and \boxed 18 without braces."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_BARE = re.compile(r"-?\s*(?:\\[dtc]?frac\s*\{[^{}]{1,40}\}\s*\{[^{}]{1,40}\}|[^\s${}\\,;)\]]+)")


@dataclass(frozen=True)
class AnswerBox:
    """One box.

    Attributes:
        content: what is in it, boxes within it opened; None where it does not end.
        start, end: where it stands in the text.
    """

    content: str | None
    start: int
    end: int


def find_boxes(text: str) -> list[AnswerBox]:
    """Returns the boxes of a text in order; those within another box are part of it."""
    boxes: list[AnswerBox] = []
    position = 0
    while (found := _BOX.search(text, position)) is not None:
        box = _box(text, found)
        boxes.append(box)
        position = max(box.end, found.end())
    return boxes


def closing_brace(text: str, opening: int) -> int | None:
    """Returns where the brace at ``opening`` is closed; None where it is not. Escaped braces do not count."""
    depth, position = 0, opening
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


def _box(text: str, found: re.Match[str]) -> AnswerBox:
    if text[found.end() : found.end() + 1] != "{":
        bare = _BARE.match(text, found.end())
        return (
            AnswerBox("", found.start(), found.end()) if bare is None else AnswerBox(bare[0], found.start(), bare.end())
        )
    end = closing_brace(text, found.end())
    if end is None:
        return AnswerBox(None, found.start(), len(text))
    # Of a box within the box its braces stay, which mean nothing.
    content = _BOX.sub("", text[found.end() + 1 : end])
    return AnswerBox(content.strip(), found.start(), end + 1)
