"""The script of a scripted gateway: what happens to each group that a fleet sends, in the order of their first arrival."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fate = Literal["accept", "retry", "break", "lose_ack", "reject"]

# accept: ACCEPTED at once. retry: RETRY, then ACCEPTED. break: the stream ends before the group has an outcome. lose_ack: the
# group is accepted, and the stream ends before its ack is sent. reject: REJECTED.
SCRIPT: tuple[Fate, ...] = (
    *("accept", "reject", "accept", "accept"),
    *("break", "accept", "lose_ack", "accept"),
    *("retry", "accept", "retry", "accept"),
    *("break", "retry", "accept", "accept"),
)
RETRY_AFTER_MS = 1500
_FURTHER = 4  # groups: one that sends a finished group again does it before it goes on
REASONS = {"retry": "quota_rate", "reject": "reward_out_of_range"}


@dataclass
class Received:
    """A group that the fleet has sent at least once.

    Attributes:
        fate: what happens to it.
        content: the group, serialized, as it came first.
        arrivals: how many times it was sent.
        retry_until: monotonic seconds before which it may not come again; 0: at any time.
        done: whether it has had its final ack.
        owed: whether the fleet has to send it again, because it has seen no final ack.
        unsure: whether it may send it again, because the stream broke after the final ack, which may not have arrived.
    """

    fate: Fate
    content: bytes
    arrivals: int = 0
    retry_until: float = 0.0
    done: bool = False
    owed: bool = True
    unsure: bool = False


class FleetScript:
    """Gives every new group its fate, and knows when all of them have come to their end."""

    def __init__(self) -> None:
        self.groups: dict[str, Received] = {}

    def received(self, group_id: str, content: bytes) -> Received:
        """Notes the arrival of a group; a new one gets the next fate of the script, and "accept" after its end."""
        if group_id not in self.groups:
            number = len(self.groups)
            self.groups[group_id] = Received(SCRIPT[number] if number < len(SCRIPT) else "accept", content)
        group = self.groups[group_id]
        group.arrivals += 1
        return group

    @property
    def played(self) -> bool:
        """Whether every fate was given and every group has had its final ack, and the fleet has gone on to a few others."""
        return len(self.groups) >= len(SCRIPT) + _FURTHER and not any(group.owed for group in self.groups.values())
