"""Sample responses on a terminal: whole, whatever the prompt is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from learner.cli.view.samples import first_and_last, print_samples, sample_text
from tests.tools.runs import make_run, sample


def shown(row: dict[str, Any], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(sample_text(row, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_samples_before_and_after():
    rows = [sample(1.0, 0, "a"), sample(2.0, 0, "b"), sample(3.0, 4, "c"), sample(4.0, 9, "d"), sample(5.0, 7, "e")]
    before, after = first_and_last(rows, 2)
    assert [row["response"] for row in before] == ["a", "b"]
    assert [row["response"] for row in after] == ["e", "d"]
    assert first_and_last(rows[:2], 2)[1] == []
    assert first_and_last([], 2) == ([], [])


def test_a_short_sample_is_one_line():
    assert shown(sample(1.0, 0, "123")).rstrip() == "      1.00  312= 123"
    assert "unscored  312=" in shown(sample(1.0, 0, "123") | {"reward": None})


def test_a_long_prompt_loses_its_middle_and_the_response_nothing():
    answer = " ".join(f"word{n}" for n in range(120))  # 770 characters
    for width in (80, 120):
        text = shown(sample(1.0, 0, answer) | {"prompt": "first " + "p" * 5000 + " last"}, width)
        lines = text.splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0].startswith("      1.00  first ppp")
        assert lines[0].rstrip().endswith("ppp last")
        assert " ".join(" ".join(lines[1:]).split()) == answer


def test_a_response_beyond_the_limit_says_how_much_is_missing():
    text = shown(sample(1.0, 0, "y" * 1234))
    assert text.count("y") == 1000
    assert "(234 more characters)" in " ".join(text.split())


def test_what_a_model_wrote_neither_moves_the_cursor_nor_is_markup():
    text = shown(sample(1.0, 0, "\x1b[2J[red]a\x07\rb[/red]\u202e\nc\td") | {"prompt": "\x1b]0;t\x07[bold]"})
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\r" not in text
    assert "\u202e" not in text
    assert "[red]a" in text
    assert "[bold]" in text


def test_the_samples_of_a_run(tmp_path: Path):
    run = make_run(tmp_path / "run").directory
    output = Console(file=io.StringIO(), width=100, color_system=None)
    print_samples(output, run)
    assert isinstance(output.file, io.StringIO)
    text = output.file.getvalue()
    assert "before (version 0)\n      0.00  312= 999" in text
    assert "after (version 3)\n      1.00  312= 123" in text
