"""What came of a run, on a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from learner.cli.view.outcome import export_command, print_evaluations, print_worth, verdict

CHANGE = {
    "name": "gsm8k", "sampling": "greedy", "metric": "mean@1", "prompts": 256, "samples": 8, "same_size": True,
    "first": {"version": 0, "value": 0.2, "low": 0.15, "high": 0.25},
    "last": {"version": 60, "value": 0.675, "low": 0.6251, "high": 0.7249}, "difference": 0.475, "intervals_overlap": False,
    "gain": None,
}  # fmt: skip
LAST = {"version": 60, "path": "/runs/r/weights/weight_v000060", "loads": True}
BEST = {"version": 40, "path": "/runs/r/weights/weight_v000040", "loads": False, "metric": "mean@1", "name": "gsm8k",
        "sampling": "greedy", "value": 0.7}  # fmt: skip


def output(function: Any, *values: Any, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    function(console, *values)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_before_and_after_with_their_intervals():
    _, title, numbers = output(print_evaluations, [CHANGE])
    assert title == "gsm8k, greedy: mean@1, 256 prompts × 8 responses"
    assert numbers == "  v0 0.200 [0.150, 0.250] → v60 0.675 [0.625, 0.725]: +0.475, intervals apart"
    assert output(print_evaluations, []) == []


def test_what_the_intervals_allow_to_say():
    assert verdict(CHANGE | {"intervals_overlap": True}) == "+0.475, intervals overlap"
    gain = {"value": 0.475, "low": 0.41, "high": 0.5412}
    assert verdict(CHANGE | {"gain": gain}) == "+0.475 [+0.410, +0.541], prompt by prompt"
    assert verdict(CHANGE | {"same_size": False}) == "+0.475, not on the same prompts"


def test_the_best_version_its_path_and_how_to_load_it():
    lines = output(print_worth, Path("/runs/r"), "r", {"last": LAST, "best": BEST})
    text = "\n".join(lines)
    assert "best    version 40 (mean@1 0.700 on gsm8k, greedy)" in text
    assert "/runs/r/weights/weight_v000040 (a delta: export it)" in text
    assert "/runs/r/weights/weight_v000060" in lines[4]
    assert "export  leeway export /runs/r --version 40 r-v40" in lines
    assert "model = AutoModelForCausalLM.from_pretrained('r-v40')" in text
    assert "serve   python -m sglang.launch_server --model-path r-v40" in lines


def test_without_an_evaluation_or_with_a_best_version_that_is_gone_the_last_one_is_exported():
    for best in (None, BEST | {"path": None}):
        lines = output(print_worth, Path("/runs/r"), "r", {"last": LAST, "best": best})
        assert "export  leeway export /runs/r --version 60 r-v60" in lines
        assert any("no longer on disk" in line for line in lines) == (best is not None)
    assert output(print_worth, Path("/runs/r"), "r", {"last": None, "best": None}) == []


def test_a_directory_with_spaces_is_quoted():
    assert export_command(Path("my runs/r"), 3, "r-v3") == "leeway export 'my runs/r' --version 3 r-v3"


def test_names_from_elsewhere_do_not_reach_the_terminal_raw():
    text = "\n".join(output(print_evaluations, [CHANGE | {"name": "\x1b[31m[red]x"}]))
    assert "\x1b" not in text
    assert "[red]x" in text
