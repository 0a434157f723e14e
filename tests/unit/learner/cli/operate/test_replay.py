"""The table of rejected groups, in which fleets have written."""

from __future__ import annotations

import io

from rich.console import Console

from learner.cli.operate.replay import table
from learner.queue.quarantine import Quarantined


def test_what_looks_like_markup_is_shown_and_not_obeyed():
    hostile = "[red]a[/] [/link] 'x' (allowed: printable)"
    entry = Quarantined("0" * 8, "alpha", 0.0, "id", "task_characters", "task", hostile, None, b"")
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    console.print(table([entry], now=10.0))
    assert isinstance(console.file, io.StringIO)
    assert hostile in console.file.getvalue()
