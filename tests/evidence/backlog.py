"""The queue of a run whose staleness is exact: which version every trained group comes from."""

from __future__ import annotations

from collections.abc import Callable

from leeway.v1 import rollout_pb2 as pb
from tests.evidence.cell import Cell

Generate = Callable[[int, int], list[pb.Group]]  # version, number of groups

MIXED = (0, 4, 16, 64)  # ages of "mixed", each for as many groups


def ages(cell: Cell, step: int) -> list[int]:
    """Age in optimizer steps of each group that step ``step`` (0-based) trains.

    In a mixture a group's age goes by its place in the batch. Prompts of all places are alike, so that this is a draw
    without the noise of drawing.
    """
    if cell.staleness == "mixed":
        return [MIXED[place * len(MIXED) // cell.prompts] for place in range(cell.prompts)]
    if cell.staleness == "jump":
        return [0 if step < cell.steps // 2 else 64] * cell.prompts
    return [cell.staleness] * cell.prompts


class Backlog:
    """Groups that wait until they have the age at which they are trained.

    The batch of step t is sampled when t steps are done. A group that has age S when it is trained at step t comes from the
    batch of step t - S; before the first step, S batches of version 0 lie in the queue. Each group is trained once. Where
    that batch is used up, because the staleness has jumped, new groups of the same version stand in for it, as from a fleet
    that still has that version.

    Args:
        cell: the run.
        generate: samples groups of a version that is still held.
    """

    def __init__(self, cell: Cell, generate: Generate) -> None:
        self._cell = cell
        self._generate = generate
        self._waiting: dict[int, dict[int, pb.Group]] = {}  # by the step of its batch and its place there
        if cell.staleness != "jump":
            for step in range(-cell.oldest, 0):
                self.put(step, generate(0, cell.prompts))

    def put(self, step: int, groups: list[pb.Group]) -> None:
        """Appends the batch that was sampled when ``step`` steps were done."""
        self._waiting[step] = dict(enumerate(groups))

    def take(self, step: int) -> list[pb.Group]:
        """Returns the groups that step ``step`` trains; the batch of this step must have been put."""
        wanted = ages(self._cell, step)
        taken = [self._waiting.get(step - age, {}).pop(place, None) for place, age in enumerate(wanted)]
        missing = [place for place, group in enumerate(taken) if group is None]
        for age in sorted({wanted[place] for place in missing}):
            places = [place for place in missing if wanted[place] == age]
            for place, group in zip(places, self._generate(max(0, step - age), len(places)), strict=True):
                taken[place] = group
        for old in [old for old in self._waiting if old <= step - self._cell.oldest]:
            del self._waiting[old]
        return [group for group in taken if group is not None]
