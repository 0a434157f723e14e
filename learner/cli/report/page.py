"""Building blocks of the report's page: sections, charts, tables, cards. Text from elsewhere becomes text, never markup."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from learner.cli.report.charts.drawing import Plot, draw


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        title: its title, unique on the page.
        note: what it shows, in a sentence.
        plot: draws it.
    """

    title: str
    note: str
    plot: Plot


def section(title: str, *parts: str, note: str = "") -> str:
    """A section of HTML parts; "" if all of them are empty."""
    if not any(parts):
        return ""
    text = f"<p class=note>{html.escape(note)}</p><br>" if note else ""
    return f"<h2>{html.escape(title)}</h2>{text}{''.join(parts)}"


def charts(found: Sequence[Chart]) -> str:
    """Charts side by side; "" without any."""
    figures = [
        f"<figure><h3>{html.escape(one.title)}</h3><p class=note>{html.escape(one.note)}</p>"
        f"{draw(one.title, one.plot)}</figure>"
        for one in found
    ]
    return f"<div class=charts>{''.join(figures)}</div>" if figures else ""


def panel(content: str) -> str:
    """A box around HTML; "" around nothing."""
    return f"<div class=panel>{content}</div>" if content else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """A table of plain text; "" without rows.

    Args:
        head: names of the columns.
        rows: their cells.
        texts: number of columns, from the left, that are no numbers.
    """
    if not rows:
        return ""

    def cells(tag: str, values: Sequence[str]) -> str:
        kinds = ["" if index < texts else " class=n" for index in range(len(values))]
        return "".join(f"<{tag}{kind}>{html.escape(one)}</{tag}>" for kind, one in zip(kinds, values, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Numbers, each with what it is."""
    found = [f"<div class=card><b>{html.escape(one)}</b><span>{html.escape(name)}</span></div>" for one, name in values]
    return f"<section class=cards>{''.join(found)}</section>"
