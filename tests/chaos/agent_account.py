"""Checks of what a worker with agents has left behind: its groups, its ledger, its processes."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from learner.queue import imbalances
from leeway.v1 import rollout_pb2 as pb
from runtime.response_spans import spans_of

_FEWEST_SCORED = 2
GUARD = "parent_death_guard.py"


def half_groups(groups: Iterable[pb.Group], size: int) -> list[str]:
    """Returns what is wrong with each group that is not whole.

    Args:
        groups: as the learner took them.
        size: responses of a whole group. Each is scored and has spans, or is unscored with a reason, and at least two are
            scored: a worker submits no other group.
    """
    return [f"group {group.group_id}: {wrong}" for group in groups for wrong in _flaws(group, size)]


def _flaws(group: pb.Group, size: int) -> Iterator[str]:
    if len(group.responses) != size:
        yield f"{len(group.responses)} responses, expected {size}"
    for number, response in enumerate(group.responses):
        if not response.unscored and not any(span.end > span.start for span in spans_of(response)):
            yield f"response {number} has a score and no generated token"
    scored = sum(not response.unscored for response in group.responses)
    if scored < _FEWEST_SCORED:
        yield f"{scored} scored responses"


def differences(acked: Sequence[str], taken: Sequence[str], ledger: pb.Ledger) -> list[str]:
    """Returns every way in which a worker's log, the learner and the ledger disagree about groups; empty if all is well.

    Args:
        acked: ids of groups whose acceptance the worker has logged. One that was killed may not have logged the last ones.
        taken: ids of groups that the learner has taken and committed, in order.
        ledger: read once nothing is under way any more.
    """
    found = list(imbalances(ledger))
    found += [f"group {id_} was acknowledged and never reached the learner" for id_ in sorted({*acked} - {*taken})]
    for name, ids in (("acknowledged", acked), ("handed to the learner", taken)):
        found += [f"group {id_} was {name} {count} times" for id_, count in Counter(ids).items() if count > 1]
    for name, expected in (
        ("accepted", len(taken)),
        ("trained", len(taken)),
        ("queued", 0),
        ("in_flight", 0),
        ("lost", 0),
    ):
        if (number := getattr(ledger, name)) != expected:
            found.append(f"the ledger says {name} = {number}, expected {expected}")
    return found


def generated(group: pb.Group) -> int:
    """Number of tokens of a group that a policy generated."""
    return sum(span.end - span.start for response in group.responses for span in spans_of(response))


def marked(mark: str) -> list[psutil.Process]:
    """Returns the running processes in whose environment a text stands, this process not among them.

    Processes that write their title over their environment, as some of SGLang's do, are not found so.
    """
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark.encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                found.append(process)
    return running(found)


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Returns those processes that still run. One that has ended and was not waited for does not."""
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                alive.append(process)
    return alive


def family(process: psutil.Process) -> list[psutil.Process]:
    """Returns a process and all its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [process]


def command_of(process: psutil.Process) -> str:
    """Returns a process's command line; empty when it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
