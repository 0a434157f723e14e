"""Tests of the checks of a chaos run with agents, against half groups, lost groups and survivors that are planted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from leeway.v1 import rollout_pb2 as pb
from tests.chaos.agent_account import differences, family, generated, half_groups, marked, running
from tests.chaos.agent_stack import KINDS
from tests.chaos.agents import Outcome, schedule
from tests.service.fleet import tokens


def scored(length: int = 2) -> pb.Response:
    return pb.Response(tokens=tokens([7] * length), reward=1.0, spans=[pb.Span(version=1, start=0, end=length)])


def in_segments(*spans: int) -> pb.Response:
    segments = [pb.Segment(tokens=tokens([7] * end), spans=[pb.Span(version=1, start=0, end=end)]) for end in spans]
    return pb.Response(segments=segments, reward=0.0)


def unscored(reason: str = "rollout_failed") -> pb.Response:
    return pb.Response(unscored=reason)


def group(*responses: pb.Response, id_: str = "a") -> pb.Group:
    return pb.Group(group_id=id_, responses=responses)


def test_whole_groups_are_whole():
    whole = group(scored(), in_segments(2, 3), unscored("environment_died"))
    assert half_groups([whole], 3) == []
    assert generated(whole) == 2 + 2 + 3


@pytest.mark.parametrize(
    ("responses", "wrong"),
    [
        ([scored(), scored()], "2 responses, expected 3"),
        ([scored()] * 4, "4 responses, expected 3"),
        ([scored(), scored(), pb.Response(tokens=tokens([7]))], "response 2 has a score and no generated token"),
        ([scored(), in_segments(0), scored()], "response 1 has a score and no generated token"),
        ([scored(), scored(), pb.Response()], "response 2 has a score and no generated token"),  # nor a reason
        ([scored(), unscored(), unscored()], "1 scored responses"),
    ],
)
def test_a_half_group_is_found(responses: list[pb.Response], wrong: str):
    assert half_groups([group(scored(), scored(), scored()), group(*responses, id_="b")], 3) == [f"group b: {wrong}"]


def balanced(groups: int) -> pb.Ledger:
    return pb.Ledger(received=groups, accepted=groups, trained=groups)


def test_a_worker_killed_before_it_logged_an_ack_is_no_difference():
    assert differences(["a"], ["a", "b"], balanced(2)) == []


@pytest.mark.parametrize(
    ("acked", "taken", "ledger", "wrong"),
    [
        (["a", "b"], ["a"], balanced(1), "group b was acknowledged and never reached the learner"),
        (["a"], ["a", "a"], balanced(2), "group a was handed to the learner 2 times"),
        (["a", "a"], ["a"], balanced(1), "group a was acknowledged 2 times"),
        (["a"], ["a"], balanced(2), "the ledger says accepted = 2, expected 1"),
        (["a"], ["a"], pb.Ledger(received=1, accepted=1, in_flight=1), "the ledger says trained = 0, expected 1"),
    ],
)
def test_a_lost_or_doubled_group_is_found(acked: list[str], taken: list[str], ledger: pb.Ledger, wrong: str):
    assert wrong in differences(acked, taken, ledger)


def test_a_ledger_that_does_not_balance_is_found():
    found = differences(["a"], ["a"], pb.Ledger(received=2, accepted=1, trained=1))
    assert any("received" in line for line in found)


@pytest.fixture
def survivor() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for the end of its stdin, and has a child that does, under a mark of this test's own."""
    script = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()']); print(flush=True); input()"
    )
    environment = {**os.environ, "LEEWAY_CHAOS": f"survivor-{os.getpid()}-{id(script)}"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_that_survives_is_found_without_its_parent(survivor: subprocess.Popen[bytes]):
    mark = "LEEWAY_CHAOS=" + psutil.Process(survivor.pid).environ()["LEEWAY_CHAOS"]
    both = family(psutil.Process(survivor.pid))
    assert len(both) == 2
    assert {*marked(mark)} == {*running(both)} == {*both}
    survivor.kill()
    psutil.wait_procs([both[0]], 60)
    assert marked(mark) == running(both) == both[1:]
    both[1].kill()
    psutil.wait_procs(both, 60)
    assert marked(mark) == running(both) == []


def test_a_schedule_is_its_seeds_and_kills_every_kind():
    assert schedule(30, 7) == schedule(30, 7) != schedule(30, 8)
    for kills in (4, 5, 30):
        assert len(schedule(kills, 0)) == kills
        assert {*schedule(kills, 0)} == {*KINDS}
    assert len(schedule(3, 0)) == 3


def test_what_was_generated_again_is_what_no_group_has():
    outcome = Outcome(needed=200)
    outcome.totals["tokens_received"] = 230
    assert outcome.again == pytest.approx(0.15)
