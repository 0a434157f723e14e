"""How stale a group may be: the age that leases aim at, and the greater one at which a late group expires."""

from __future__ import annotations

from typing import Literal

from learner.config.objective import ObjectiveConfig

Late = Literal["train", "expire"]

LATE_FACTOR = 8
VERSIONS_AFTER = 4  # of a recomputing objective: every step more is one more version on disk


def expiry_bound(max_staleness: int, late: Late, expire_after: int | None, objective: ObjectiveConfig) -> int:
    """Returns the staleness in optimizer steps above which groups expire; the arguments are the settings of these names."""
    if late == "expire":
        return max_staleness
    if expire_after is not None:
        return expire_after
    bound = LATE_FACTOR * max_staleness
    return min(bound, max_staleness + VERSIONS_AFTER) if objective.recomputes else bound


def check_expire_after(expire_after: int | None, max_staleness: int, late: Late = "train", section: str = "") -> None:
    """Raises ValueError when groups would expire at an age that leases still aim at, or a bound is set and not used.

    Args:
        expire_after: the setting of that name.
        max_staleness: the setting of that name.
        late: the setting of that name.
        section: prefix of the settings' names in the message, such as ``learner.``.
    """
    if expire_after is None:
        return
    if late == "expire":
        raise ValueError(
            f'{section}expire_after = {expire_after} has no effect with {section}late = "expire": groups expire above '
            f'{section}max_staleness = {max_staleness}; leave it out, or set {section}late = "train"'
        )
    if expire_after < max_staleness:
        raise ValueError(
            f"{section}expire_after = {expire_after} is below {section}max_staleness = {max_staleness}: groups would expire "
            f"that leases allow; raise {section}expire_after, or lower {section}max_staleness"
        )
