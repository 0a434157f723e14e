"""The table that a soak prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from tests.soak.slope import Finding

_UNITS = {"descriptors": "", "threads": "", "lasting keys": ""}


def show(findings: Sequence[Finding], samples: Sequence[Mapping[str, float]], warmup_s: float) -> None:
    """Prints a row per series: first and last value, slope, and verdict."""
    last = samples[-1]
    steady = [sample for sample in samples if sample["time"] >= warmup_s]
    rate = _rate(steady)
    title = (
        f"{last['time'] / 60:.1f} minutes, step {last['step']:.0f} ({rate:.2f} steps/s), the first {warmup_s / 60:.0f} "
        f"minutes left out, {len(steady)} samples"
    )
    table = Table(title=title, title_justify="left")
    for name in ("whose", "what", "first", "last", "most", "slope/h", "allowed/h", ""):
        table.add_column(name, justify="left" if name in ("whose", "what", "") else "right", no_wrap=name != "")
    for one in findings:
        unit = _UNITS.get(one.measure, " MB")
        table.add_row(
            one.owner,
            one.measure + unit.replace(" ", ", "),
            *(f"{value:,.1f}" if unit else f"{value:,.0f}" for value in (one.first, one.last, one.most)),
            "" if one.slope is None else f"{one.slope:+,.2f}",
            _allowed(one),
            {True: "ok", False: "GROWS", None: "-"}[one.passes],
        )
    console = Console(width=130)
    console.print(table)
    for note in dict.fromkeys(f"{one.measure}: {one.limit.note}" for one in findings if one.limit.note):
        console.print(f"  {note}", highlight=False, style="dim")


def _allowed(one: Finding) -> str:
    if one.limit.rule == "bounded":
        return f"at most {one.limit.most:,.0f}"
    if one.limit.rule == "reported":
        return ""
    return f"{max(one.limit.per_hour, one.limit.share * max(one.first, one.last)):,.1f}"


def _rate(steady: Sequence[Mapping[str, float]]) -> float:
    if len(steady) < 2 or steady[-1]["time"] <= steady[0]["time"]:
        return 0.0
    return (steady[-1]["step"] - steady[0]["step"]) / (steady[-1]["time"] - steady[0]["time"])
