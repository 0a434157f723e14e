"""The script gives every new group the next fate and ends when all have their final ack."""

from __future__ import annotations

from learner.conformance.script import SCRIPT, FleetScript


def test_fates_are_given_in_order_of_first_arrival_and_kept_over_resends():
    script = FleetScript()
    fates = [script.received(str(number), b"").fate for number in range(len(SCRIPT))]
    assert tuple(fates) == SCRIPT
    assert script.received("1", b"").fate == SCRIPT[1]
    assert script.groups["1"].arrivals == 2
    assert script.received("another", b"").fate == "accept"


def test_it_is_played_once_no_group_is_owed_and_the_fleet_has_gone_on():
    script = FleetScript()
    for number in range(len(SCRIPT)):
        script.received(str(number), b"").owed = False
    assert not script.played  # the fleet may still send one of them again
    for number in range(4):
        script.received(f"further-{number}", b"").owed = number == 3
    assert not script.played
    script.groups["further-3"].owed = False
    assert script.played
