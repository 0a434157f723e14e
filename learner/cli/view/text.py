"""Formats numbers, durations and series for people."""

from __future__ import annotations

import itertools

_BLOCKS = "▁▂▃▄▅▆▇█"


def number(value: float | None, digits: int = 2) -> str:
    """Formats a number with ``digits`` decimal places and thousands separators; ``–`` for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """Formats a number of seconds as ``42s``, ``3m05s`` or ``1h02m``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def sparkline(values: list[float], width: int = 24) -> str:
    """Draws ``values`` as a line of at most ``width`` block characters, scaled from 0 to the largest of their means."""
    if not values:
        return ""
    width = min(width, len(values))
    bounds = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]
    top = max(max(means), 1e-9)
    return "".join(_BLOCKS[max(0, min(7, int(value / top * 7.999)))] for value in means)


def printable(text: str) -> str:
    """Replaces what would move the cursor or colour the terminal, such as escape characters; line feeds and tabs stay."""
    return "".join(one if one.isprintable() or one in "\n\t" else "�" for one in text)


def without_middle(text: str, limit: int) -> str:
    """``text`` if it has at most ``limit`` characters, otherwise its beginning and its end with … between them."""
    head = limit // 2
    return text if len(text) <= limit else f"{text[:head]}…{text[head + 1 - limit :]}"


def interval(value: float, low: float, high: float) -> str:
    """Formats an estimate and its interval, as ``0.713 [0.652, 0.771]``; from 10 on with one decimal place."""
    digits = 3 if max(abs(low), abs(high)) < 10 else 1
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"
