"""Keeps leases to groups that the learner trains before their version is too stale. Pure: numbers in, numbers out."""

from __future__ import annotations

from dataclasses import replace

from learner.queue import Allowance


def within_age(allowance: Allowance, steps_left: int | None, groups_per_step: int) -> Allowance:
    """Lowers the bound of an allowance to what the learner takes while the caller's version is fresh enough.

    The bound counts from the learner's step, but a worker generates with the version that it has loaded, which is some steps
    older: without this limit the last groups of a full queue would expire by just as many steps.

    Args:
        allowance: what the fleet may lease by occupancy.
        steps_left: optimizer steps after which groups of the worker's version expire; None if it is not known, or none do.
        groups_per_step: groups that the learner consumes in a step.
    """
    if steps_left is None:
        return allowance
    return replace(allowance, bound=min(allowance.bound, max(0, steps_left + 1) * groups_per_step))
