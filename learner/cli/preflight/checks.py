"""What a run's settings and its task would do, tried before a process is started."""

from __future__ import annotations

from collections.abc import Iterator

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding
from learner.cli.preflight.limits import limits
from learner.cli.preflight.network import network
from learner.cli.preflight.task import task


def preflight(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks lengths and sampling, then runs the task, which takes a few seconds, and up to a few minutes if it hangs."""
    yield from _checks(examined, brief=False)


def brief_preflight(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks the part of it that takes about a second."""
    yield from _checks(examined, brief=True)


def _checks(examined: ExaminedConfig, brief: bool) -> Iterator[Finding]:
    sizes = network(examined)
    found = list(limits(examined, sizes))
    yield from found
    # What is wrong for a prompt of one token is wrong for the task's prompts too: it is said once.
    for finding in task(examined, sizes, brief):
        if finding.check not in {earlier.check for earlier in found}:
            yield finding
