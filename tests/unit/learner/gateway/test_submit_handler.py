"""What is kept of a rejected group for the operator can be shown on a terminal, whoever sent it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from learner.config import AdmissionConfig, LimitsConfig
from learner.gateway.admission_gate import AdmissionGate
from learner.gateway.pending_submit import PendingSubmit
from learner.gateway.submit_handler import SubmitHandler
from learner.gateway.validation import GroupRules
from learner.gateway.version_ages import VersionAges
from learner.queue import Timeline
from leeway.v1 import rollout_pb2 as pb
from tests.service.fleet import valid_group


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("group_id", "a\x1b[2J\r\n"),
        ("prompt_id", "a\x1b[2J\r\n"),
        ("task", "\u202ea"),
    ],
)
def test_a_quarantined_group_shows_no_control_characters(field: str, value: str):
    submits: list[PendingSubmit] = []
    unused: Any = None
    parts: Any = (_VersionFeed(), AdmissionGate(AdmissionConfig(), unused, unused), _Writer(submits))
    handler = SubmitHandler(GroupRules(LimitsConfig(vocab_size=100), 86_400), *parts, quarantine=True)
    request = pb.SubmitRequest(group=valid_group())
    setattr(request.group, field, value)
    asyncio.run(handler.take("alpha", request, lambda _: None))
    record = json.loads(submits[0].quarantined)
    assert record["field"] == field
    for name in ("fleet", "group_id", "reason", "field", "value"):
        assert record[name].isprintable()
    assert submits[0].ack.group_id == request.group.group_id  # as the fleet wrote it: it must recognise its group


class _Writer:
    def __init__(self, submits: list[PendingSubmit], accepted: str = "") -> None:
        self.put = submits.append
        self._accepted = accepted

    async def knows(self, fleet: str, group_id: str) -> bool:
        return group_id == self._accepted


class _VersionFeed:
    """Knows the versions 0 to 40, each of the step of its number."""

    finished = False

    def __init__(self, expire_after: int | None = None) -> None:
        self.ages = VersionAges(expire_after)
        self.ages.add([pb.Policy(version=version, step=version, epoch=1) for version in range(41)], [Timeline(1, 0)])
        self.known = self.ages.known


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [(0, ""), (85_000, ""), (-500, ""), (10**8, ""), (-700, "id_in_future")],
)
def test_a_group_whose_id_is_of_the_future_is_refused(age_s: int, reason: str):
    submits: list[PendingSubmit] = []
    unused: Any = None
    parts: Any = (_VersionFeed(), AdmissionGate(AdmissionConfig(), unused, unused), _Writer(submits))
    handler = SubmitHandler(GroupRules(LimitsConfig(vocab_size=100), 86_400), *parts, quarantine=True)
    valid = valid_group()
    milliseconds = int(time.time() - age_s) * 1000
    valid.group_id = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}{valid.group_id[13:]}"
    asyncio.run(handler.take("alpha", pb.SubmitRequest(group=valid), lambda _: None))
    ack = submits[0].ack
    assert ack.reason == reason
    assert (submits[0].group is None) == bool(reason)
    if reason:
        assert (ack.outcome, ack.field) == (pb.OUTCOME_REJECTED, "group_id")
        assert valid.group_id in ack.value


def handled(group: pb.Group, expire_after: int | None, accepted: str = "") -> PendingSubmit:
    """Submits a group to a handler whose newest version is 40, and returns what is put in line."""
    submits: list[PendingSubmit] = []
    unused: Any = None
    gate = AdmissionGate(AdmissionConfig(), unused, unused)
    parts: Any = (_VersionFeed(expire_after), gate, _Writer(submits, accepted))
    handler = SubmitHandler(GroupRules(LimitsConfig(vocab_size=100), 86_400), *parts, quarantine=True)
    asyncio.run(handler.take("alpha", pb.SubmitRequest(group=group), lambda _: None))
    return submits[0]


def test_a_group_that_the_learner_would_let_expire_is_refused():
    mixed = valid_group(40)
    mixed.responses[1].spans[0].version = 7
    ack = handled(mixed, 32).ack
    assert (ack.outcome, ack.reason, ack.field) == (
        pb.OUTCOME_REJECTED, "too_stale", "responses[1].spans[0].version"
    )  # fmt: skip
    assert ack.value == "version 7, 33 steps stale (allowed: at most 32 (expire_after))"
    assert handled(mixed, 32).counted == ("length:too_stale:4", "reward:too_stale:0.5")
    first, second = (
        pb.Segment(context_tokens=b"\1\0\0\0", tokens=b"\1\0\0\0", spans=[pb.Span(version=version, start=0, end=1)])
        for version in (40, 7)
    )
    segmented = valid_group(40)
    segmented.responses[1].CopyFrom(pb.Response(segments=[first, second], unscored="crash"))
    segmented.responses[0].unscored = "crash"
    submit = handled(segmented, 32)
    assert (submit.ack.reason, submit.ack.field) == ("too_stale", "responses[1].segments[1].spans[0].version")
    assert submit.wasted == 6
    assert submit.counted == ("length:too_stale:4",)  # (4 + 2) / 2 tokens; no reward, no bucket
    for version, expire_after in ((8, 32), (0, None), (0, 40)):
        submit = handled(valid_group(version), expire_after)
        assert submit.ack.outcome == pb.OUTCOME_UNSPECIFIED
        assert submit.group is not None
        assert submit.group.versions == (version,)


def test_a_group_that_was_accepted_in_time_is_a_duplicate_however_late_it_is_sent_again():
    late = valid_group(0)
    assert handled(late, 32).group is None
    assert handled(late, 32, accepted=late.group_id).group is not None  # the queue answers
