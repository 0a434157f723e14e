"""Sample responses of the earliest and of the latest versions of a run, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_history import Row, read_samples
from learner.cli.view.text import printable, without_middle

_SAMPLES = 4
_PROMPT = 72  # characters of a prompt: enough to know it again
_RESPONSE = 1000  # characters of a response; a longer one ends with the number of characters that are missing
_INDENT = "  "


def print_samples(console: Console, run: RunDirectory) -> None:
    """Prints a few responses of the earliest version, then a few of the latest. Raises OSError."""
    before, after = first_and_last(read_samples(run.rollouts), _SAMPLES)
    if not before:
        return
    console.print(Rule("samples", align="left", style="dim"))
    for title, rows in (("before", before), ("after", after)):
        if not rows:
            continue
        console.print(Text(f"{title} ({_versions(rows)})", style="dim"))
        for row in rows:
            console.print(sample_text(row, console.width))


def first_and_last(samples: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Up to ``count`` samples of the earliest version, and the ``count`` samples of the latest versions, oldest first.

    The second list is empty while there are samples of one version only.
    """
    versions = sorted({row["version"] for row in samples})
    if not versions:
        return [], []
    first = [row for row in samples if row["version"] == versions[0]][:count]
    later = sorted((row for row in samples if row["version"] > versions[0]), key=lambda row: row["version"])
    return first, later[-count:]


def sample_text(row: Row, width: int) -> Group:
    """Renders a sample: on one line where it fits into ``width`` columns, otherwise the response below its prompt.

    A long prompt loses its middle; the response is whole up to a limit, and says how much of it is missing beyond.
    """
    reward = "unscored" if row["reward"] is None else f"{row['reward']:.2f}"
    prompt = without_middle(printable(row["prompt"]).strip().replace("\n", "⏎"), min(_PROMPT, width - 14))
    response = printable(row["response"])
    missing = len(response) - _RESPONSE
    response = response[:_RESPONSE] + (f"… ({missing:,} more characters)" if missing > 0 else "")
    text = Text(f"{_INDENT}{reward:>8}  ").append(prompt, style="dim")
    if "\n" not in response and text.cell_len + Text(response).cell_len < width:
        return Group(text.append(f" {response}"))
    return Group(text, Padding(Text(response), (0, 0, 0, 2 * len(_INDENT))))


def _versions(rows: Sequence[Row]) -> str:
    versions = sorted({row["version"] for row in rows})
    return f"version {versions[0]}" if len(versions) == 1 else f"versions {versions[0]} to {versions[-1]}"
