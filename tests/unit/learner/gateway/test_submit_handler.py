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
    parts: Any = (_VersionFeed(), AdmissionGate(AdmissionConfig(), unused), _Writer(submits))
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
    def __init__(self, submits: list[PendingSubmit]) -> None:
        self.put = submits.append


class _VersionFeed:
    known = frozenset({0})


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [(0, ""), (85_000, ""), (-500, ""), (86_000, "id_too_old"), (10**8, "id_too_old"), (-700, "id_in_future")],
)
def test_a_group_whose_id_is_not_remembered_is_refused(age_s: int, reason: str):
    submits: list[PendingSubmit] = []
    unused: Any = None
    parts: Any = (_VersionFeed(), AdmissionGate(AdmissionConfig(), unused), _Writer(submits))
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
