"""Who has room in the backlog, by numbers."""

from learner.config import AdmissionConfig
from learner.gateway.admission import Admission


def test_room_while_the_backlog_is_below_its_limit():
    admission = Admission(AdmissionConfig(max_queued_groups=100))
    assert admission.has_room("a", {})
    assert admission.has_room("a", {"a": 99})
    assert not admission.has_room("a", {"a": 100})


def test_a_flood_does_not_shut_others_out():
    admission = Admission(AdmissionConfig(max_queued_groups=100))
    assert not admission.has_room("flood", {"flood": 100, "quiet": 3})
    assert admission.has_room("quiet", {"flood": 100, "quiet": 3})
    assert admission.has_room("quiet", {"flood": 100})
    assert not admission.has_room("quiet", {"flood": 100, "quiet": 50})


def test_fleets_without_groups_take_no_share():
    admission = Admission(AdmissionConfig(max_queued_groups=100))
    idle = {f"idle-{i}": 0 for i in range(1000)}
    assert admission.has_room("b", {"a": 100, "b": 49, **idle})
