"""Recorded groups become the groups that they were."""

from __future__ import annotations

from typing import Any

import pytest

from leeway.v1 import rollout_pb2
from rollout.client.recorded import group_of
from rollout.config import WorkerConfig
from rollout.engine.response import VersionSpan
from rollout.engine.sampling import Sampling
from rollout.episodes.record import SegmentRecord
from rollout.generation.asked_prompt import AskedPrompt
from rollout.generation.generated import MadeGroup
from rollout.generation.group import make_group
from rollout.generation.outcome import ResponseOutcome
from rollout.tasks import Prompt
from rollout.tasks.score import Score
from rollout.telemetry.group_record import GroupRecorder
from runtime.rollout_record import RecordedGroup, RecordError
from tests.tools.recorded import group, response

IDS = [5, 6, 7]


def segment(tokens: list[int], context: list[int] = IDS) -> SegmentRecord:
    return SegmentRecord(context, tokens, [VersionSpan(2, 0, 1), VersionSpan(3, 1, len(tokens))], "first")


OUTCOMES = [
    ResponseOutcome([segment([1, 2, 9])], "stop", Score(1.5, {"a": 1.0, "b": 0.5}), text="12"),
    ResponseOutcome([segment([1, 2])], "length", None, "limit_tokens", "too long", text="1"),
    ResponseOutcome([segment([1, 2]), segment([3, 4], [8]), segment([4, 5])], "stop", Score(-1.0)),
    ResponseOutcome([segment([3, 4], [8])], "stop", Score(0.0)),
    ResponseOutcome([], "abort", None, "aborted", "full", text="said"),
]


def test_a_group_is_what_it_was_when_it_was_submitted():
    config = {
        "gateway": "g:1", "model": "/m", "state_dir": "/s", "log_dir": "/l", "allowed_uris": ["file:///w"],
        "sampling": {"temperature": 0.5, "top_k": 20, "max_new_tokens": 9},
    }  # fmt: skip
    sent = make_group("sort", "p", IDS, OUTCOMES, Sampling(0.5, 9, (9,), top_k=20))
    made = MadeGroup(AskedPrompt(0, 0, Prompt("p", "1=")), IDS, OUTCOMES, sent)
    line = GroupRecorder(WorkerConfig.parse(config, "test")).record(made).line()
    again = group_of(RecordedGroup.parse(line), new_id=False)
    assert abs(again.created_at.ToMilliseconds() - sent.created_at.ToMilliseconds()) < 60_000
    again.created_at.CopyFrom(sent.created_at)
    assert again == sent


def test_a_new_group_has_an_id_and_a_time_of_its_own():
    record = group(1000.0)
    again = group_of(record, new_id=True)
    assert again.group_id != record.group_id
    assert again.created_at.seconds > 1_700_000_000
    assert group_of(record, new_id=False).created_at.seconds == 1000


def test_what_is_not_whole_is_refused_with_the_reason():
    def without(reason: str, **values: Any) -> rollout_pb2.Group:
        one = response("12", left_out=reason)
        bare = one.segments[0].model_copy(update={"tokens": None})
        second = one.model_copy(update={"segments": (bare,)})
        return group_of(group(responses=[response("1"), second], **values), new_id=True)

    with pytest.raises(RecordError, match=r"the token ids of its response 2 are left out \(masked\)"):
        without("masked")
    with pytest.raises(RecordError, match=r"the token ids of its prompt are left out \(size\)"):
        without("size", prompt_tokens=None)
    with pytest.raises(RecordError, match=r"the token ids of its prompt are left out \(masked\)"):
        without("off", prompt_tokens=None, masked=1)
    with pytest.raises(RecordError, match=r"it was withdrawn \(nan\)"):
        group_of(group(withdrawn="nan"), new_id=True)
