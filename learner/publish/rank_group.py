"""Messages between the ranks of a publication, in a process group of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

_NONE = -1  # stands for None in a message


class RankGroup:
    """A gloo group of all ranks, for one thread of each. Its methods are collective.

    Args:
        timeout_s: limit of one message, seconds.
    """

    def __init__(self, timeout_s: float) -> None:
        self.rank = dist.get_rank()
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s)))

    def agree(self, values: list[int]) -> list[int]:
        """Returns rank 0's ``values`` on every rank; all pass a list of the same length."""
        agreed = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(agreed, src=0, group=self._group)
        return agreed.tolist()

    def agree_number(self, value: int | None) -> int | None:
        """Returns rank 0's ``value``, None or at least 0, on every rank."""
        (agreed,) = self.agree([_NONE if value is None else value])
        return None if agreed == _NONE else agreed

    def gather(self, values: list[int]) -> list[list[int]]:
        """Returns every rank's ``values`` on every rank, by rank; all pass a list of the same length."""
        mine = torch.tensor(values, dtype=torch.int64)
        everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, mine, group=self._group)
        return [row.tolist() for row in everyone]

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        dist.barrier(group=self._group)
