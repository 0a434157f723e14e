"""Caps of the backlog, by numbers."""

from learner.config import AdmissionConfig, QuotaConfig
from learner.gateway.backlog_caps import BacklogCaps
from learner.gateway.quota import Quotas
from learner.queue import Backlog


def backlog_caps(
    default: QuotaConfig | None = None, quotas: dict[str, QuotaConfig] | None = None, **limits
) -> BacklogCaps:
    return BacklogCaps(AdmissionConfig(**limits), Quotas(default or QuotaConfig(), quotas or {}))


def queued(**fleets: int) -> dict[str, Backlog]:
    """Groups of 10 bytes."""
    return {fleet: Backlog(count, count, 10 * count) for fleet, count in fleets.items()}


def test_space_while_the_backlog_is_below_its_limit():
    caps = backlog_caps(max_queued_groups=100)
    assert caps.refusal("a", {}) is None
    assert caps.refusal("a", queued(a=99)) is None
    assert caps.refusal("a", queued(a=100)) == "queue_full"


def test_a_flood_does_not_shut_others_out():
    caps = backlog_caps(max_queued_groups=100)
    assert caps.refusal("flood", queued(flood=100, quiet=3)) == "queue_full"
    assert caps.refusal("quiet", queued(flood=100, quiet=3)) is None
    assert caps.refusal("quiet", queued(flood=100)) is None
    assert caps.refusal("quiet", queued(flood=100, quiet=50)) == "queue_full"


def test_fleets_without_groups_take_no_share():
    caps = backlog_caps(max_queued_groups=100)
    assert caps.refusal("b", queued(a=100, b=49, **{f"idle-{i}": 0 for i in range(1000)})) is None


def test_the_runs_bytes_are_capped_as_its_groups_are():
    caps = backlog_caps(max_queued_bytes=1000)
    assert caps.refusal("a", queued(a=99)) is None
    assert caps.refusal("a", queued(a=98, b=2)) == "queue_full"
    assert caps.refusal("b", queued(a=98, b=2)) is None


def test_a_fleets_own_caps_hold_for_it_alone():
    caps = backlog_caps(QuotaConfig(max_queued_groups=5), {"big": QuotaConfig(max_queued_bytes=100)})
    assert caps.refusal("a", queued(a=4, big=9)) is None
    assert caps.refusal("a", queued(a=5)) == "quota_backlog"
    assert caps.refusal("big", queued(a=5, big=9)) is None
    assert caps.refusal("big", queued(big=10)) == "quota_backlog"


def test_what_the_learner_has_taken_is_memory_but_does_not_wait():
    caps = backlog_caps(QuotaConfig(max_queued_groups=5, max_queued_bytes=200))
    assert caps.refusal("a", {"a": Backlog(queued=0, groups=19, bytes=190)}) is None
    assert caps.refusal("a", {"a": Backlog(queued=0, groups=20, bytes=200)}) == "quota_backlog"


def test_remembered_ids_are_bytes_of_their_fleet_too():
    """A fleet whose groups leave the queue at once could fill the memory with their ids."""
    caps = backlog_caps(QuotaConfig(max_queued_bytes=200))
    assert caps.refusal("a", {"a": Backlog(queued=0, groups=0, bytes=0, remembered=199)}) is None
    assert caps.refusal("a", {"a": Backlog(queued=0, groups=1, bytes=10, remembered=190)}) == "quota_backlog"
    caps = backlog_caps(max_queued_bytes=1000)
    flood = Backlog(queued=0, groups=0, bytes=0, remembered=990)
    assert caps.refusal("flood", {"flood": flood, **queued(b=1)}) == "queue_full"
    assert caps.refusal("b", {"flood": flood, **queued(b=1)}) is None
