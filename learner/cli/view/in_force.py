"""What operators have changed in a run and what is in force, as text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping


def in_force_rows(settings: Mapping[str, str], drained: Collection[str], paused: bool) -> Iterator[tuple[str, str]]:
    """Yields names and texts of what is not as the run file says.

    Args:
        settings: changed settings, name -> value as JSON.
        drained: fleets that are granted no groups.
        paused: whether the learner trains nothing.
    """
    if paused:
        yield "paused", "by an operator; leeway ctl resume goes on"
    if settings:
        yield "changed settings", ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
    if drained:
        yield "drained fleets", ", ".join(sorted(drained))
