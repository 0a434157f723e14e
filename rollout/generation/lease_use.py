"""A lease in use: its groups are made and submitted at their own pace, and it is kept until the last one."""

from __future__ import annotations


class LeaseUse:
    """One lease.

    Args:
        lease_id: as the gateway names it.
        groups: how many are made under it.
    """

    def __init__(self, lease_id: str, groups: int) -> None:
        self.lease_id = lease_id
        self._left = groups
        self.unused = False

    def end(self, *, used: bool, groups: int = 1) -> bool:
        """Notes that groups have ended; returns whether they were the last ones.

        Args:
            used: whether they have used up their promises: the gateway has accepted them.
            groups: how many.
        """
        self.unused = self.unused or not used
        self._left -= groups
        return self._left == 0
