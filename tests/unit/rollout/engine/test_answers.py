"""SGLang's streamed answers: pieces with new tokens or all so far, versions of unfinished ones, and ways to be wrong."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from rollout.engine.answers import StreamedAnswer
from rollout.engine.errors import (
    BusyError,
    EngineError,
    NotFiniteError,
    RefusedError,
    UnattributedError,
    WeightsError,
)
from rollout.engine.response import Response, VersionSpan
from rollout.engine.routing_reader import RoutingReader


def piece(ids: list[int], completed: int, version: str | None = "3", **meta: Any) -> dict[str, Any]:
    label = {} if version is None else {"weight_version": version}
    return {"output_ids": ids, "meta_info": {"finish_reason": None, "completion_tokens": completed, **label, **meta}}


def last(ids: list[int], completed: int, finish: dict[str, Any], *spans: tuple[str, int, int]) -> dict[str, Any]:
    versions = [{"version": version, "start": start, "end": end} for version, start, end in spans]
    return piece(ids, completed, finish_reason=finish, weight_versions=versions)


@pytest.mark.parametrize("pieces", [([5], [6, 7], [12]), ([5], [5, 6, 7], [5, 6, 7, 12])])
def test_pieces_of_new_tokens_and_of_all_tokens_so_far_are_one_response(pieces: tuple[list[int], ...]):
    answer = StreamedAnswer("http://e")
    first, second, third = pieces
    assert answer.take(piece(first, 1)) == ([5], 3)
    assert answer.take(piece(second, 3, "4")) == ([6, 7], 4)
    assert answer.response is None
    end = last(third, 4, {"type": "stop", "matched": 12}, ("3", 0, 1), ("4", 1, 4), ("5", 4, 4))
    assert answer.take(end) == ([12], None)
    spans = [VersionSpan(3, 0, 1), VersionSpan(4, 1, 4)]
    assert answer.response == Response([5, 6, 7, 12], "stop", spans, stopped_by=12)


@pytest.mark.parametrize("finish", [{"type": "stop", "matched": 12}, {"type": "abort", "message": "refit"}])
def test_the_last_piece_says_which_experts_the_tokens_went_to(finish: dict[str, Any]):
    reader = RoutingReader(layers=2, top_k=2, experts=4)
    ids = np.array([[[1, 2], [3, 0]], [[0, 3], [2, 1]], [[2, 3], [0, 1]]], "<i4")
    answer = StreamedAnswer("http://e", reader)
    answer.take(piece([5], 1))
    item = last([12], 2, finish, ("3", 0, 2))
    item["meta_info"] |= {"routed_experts": base64.b64encode(ids.tobytes()).decode(), "prompt_tokens": 2}
    answer.take(item)
    assert answer.response is not None
    assert answer.response.routed is not None
    assert answer.response.routed.ids.tolist() == ids.tolist()


def test_an_aborted_response_keeps_its_tokens_once_and_their_versions():
    answer = StreamedAnswer("http://e")
    answer.take(piece([5], 1))
    answer.take(piece([6], 2))
    # a response that is aborted while it waits: its last token comes again
    assert answer.take(piece([6], 2, finish_reason={"type": "abort", "message": "gone"})) == ([], None)
    assert answer.response == Response([5, 6], "abort", [VersionSpan(3, 0, 2)], message="gone")


def test_pieces_that_do_not_add_up_are_an_engine_error():
    answer = StreamedAnswer("http://e")
    answer.take(piece([5], 1))
    with pytest.raises(EngineError, match="1 tokens and a piece of 1 are not the 3"):
        answer.take(piece([6], 3))


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (piece([5], 1, None), UnattributedError, "weight_version"),
        (piece([5], 1, "default"), WeightsError, "labelled 'default'"),
        (last([5], 1, {"type": "stop", "matched": 12}), UnattributedError, "weight_versions"),
        (last([5], 1, {"type": "stop", "matched": "NaN happened"}, ("3", 0, 1)), NotFiniteError, "not finite"),
        (last([5], 1, {"type": "stop", "matched": 12}, ("3", 0, 2)), EngineError, "do not cover"),
        (piece([], 0, finish_reason={"type": "abort", "status_code": 503, "message": "full"}), BusyError, "full"),
        (piece([], 0, finish_reason={"type": "abort", "status_code": 400, "message": "bad"}), RefusedError, "bad"),
        ({"error": {"message": "too long", "code": 400}}, RefusedError, "too long"),
        ({"error": {"message": "full", "code": 503}}, BusyError, "full"),
        ({"error": {"message": "broken", "code": 500}}, EngineError, "broken"),
        ({"output_ids": [1]}, EngineError, "malformed piece"),
        ("text", EngineError, "malformed piece"),
    ],
)
def test_every_wrong_piece_has_its_error(item: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        StreamedAnswer("http://e").take(item)
