"""A response in parts: spans that join, tokens that are counted once, stop texts across a seam."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rollout.engine.draft import ResponseDraft
from rollout.engine.response import Response, VersionSpan
from rollout.engine.routed_tokens import RoutedTokens
from rollout.engine.sampling import Sampling
from runtime.routing_record import RoutingShape

LETTERS = "abcdefghijklmnop"


def decode(ids: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in ids)


def draft(*stop: str, tokens: int = 10, seen: list[int] | None = None) -> ResponseDraft:
    sampling = Sampling(1.0, tokens, (12,), stop=stop)
    return ResponseDraft([14, 1], sampling, decode, None if seen is None else seen.extend)


def test_a_continued_response_has_the_tokens_and_versions_of_both_parts():
    seen: list[int] = []
    one = draft(seen=seen)
    assert one.remainder() == ([14, 1], Sampling(1.0, 10, (12,)))
    assert one.arrived([5], 3)
    assert one.arrived([6, 7], 4)
    prompt, sampling = one.remainder()  # the first engine has died
    assert (prompt, sampling.max_new_tokens) == ([14, 1, 5, 6, 7], 7)
    one.arrived([8], 4)
    one.arrived([12], None)
    whole = one.complete(Response([8, 12], "stop", [VersionSpan(4, 0, 1), VersionSpan(5, 1, 2)], stopped_by=12))
    spans = [VersionSpan(3, 0, 1), VersionSpan(4, 1, 4), VersionSpan(5, 4, 5)]
    assert whole == Response([5, 6, 7, 8, 12], "stop", spans, stopped_by=12)
    assert seen == [5, 6, 7, 8, 12]


def test_what_the_server_says_in_the_end_is_surer_than_what_its_pieces_said():
    one = draft()
    one.remainder()
    one.arrived([5, 6], 4)  # delivered after the weights had changed
    one.arrived([7], None)
    whole = one.complete(Response([5, 6, 7], "length", [VersionSpan(3, 0, 1), VersionSpan(4, 1, 3)]))
    assert whole is not None
    assert whole.spans == [VersionSpan(3, 0, 1), VersionSpan(4, 1, 3)]


def routed(tokens: int, engine: int) -> RoutedTokens:
    """Experts by which it can be told which engine has read which token."""
    ids = np.array([[[position % 8, 8 + engine]] for position in range(tokens)])
    return RoutedTokens(RoutingShape(layers=(0,), top_k=2, experts=16), ids)


def test_experts_stay_those_of_the_engine_that_sampled_with_them():
    one = draft()
    one.remainder()
    one.arrived([5, 6], 3)
    assert one.complete(Response([5, 6], "abort", [VersionSpan(3, 0, 2)], routed=routed(3, engine=1))) is None
    one.remainder()  # the next engine reads the prompt and both tokens again, with newer weights
    one.arrived([7, 12], None)
    whole = one.complete(Response([7, 12], "stop", [VersionSpan(4, 0, 2)], routed=routed(5, engine=2)))
    assert whole is not None
    assert whole.routed is not None
    assert whole.routed.ids[:, 0].tolist() == [[0, 9], [1, 9], [2, 9], [3, 10], [4, 10]]


def test_experts_of_an_engine_that_died_are_those_of_the_one_that_read_its_tokens():
    one = draft()
    one.remainder()
    one.arrived([5, 6], 3)
    one.remainder()
    one.arrived([12], None)
    whole = one.complete(Response([12], "stop", [VersionSpan(4, 0, 1)], routed=routed(4, engine=2)))
    assert whole is not None
    assert whole.routed is not None
    assert whole.routed.ids[:, 0].tolist() == [[0, 10], [1, 10], [2, 10], [3, 10]]


def test_experts_of_tokens_behind_a_stop_text_are_dropped_with_them():
    one = draft("c")
    one.remainder()
    one.arrived([0, 2, 3, 4], 3)
    whole = one.complete(Response([0, 2, 3, 4], "length", [VersionSpan(3, 0, 4)], routed=routed(5, engine=1)))
    assert whole is not None
    assert whole.tokens == [0, 2]
    assert whole.routed is not None
    assert len(whole.routed) == 3  # the prompt and the first token; the last one was not read


def test_an_abort_is_gone_on_from():
    one = draft()
    one.remainder()
    one.arrived([5], 3)
    assert one.complete(Response([5], "abort", [VersionSpan(3, 0, 1)])) is None
    assert one.remainder()[0] == [14, 1, 5]
    assert one.aborted("again").tokens == [5]
    assert one.aborted("again").finish == "abort"


def test_a_stop_text_ends_the_response_with_the_token_that_completes_it():
    seen: list[int] = []
    one = draft("cd", "ef", seen=seen)
    one.remainder()
    assert one.arrived([0, 1, 2], 3)
    one.remainder()  # the text is begun on one engine and completed on another
    assert not one.arrived([3, 4, 5], 4)
    assert not one.arrived([6], 4)
    whole = one.complete(Response([3, 4, 5, 6, 7], "abort", [VersionSpan(4, 0, 5)]))
    assert whole == Response([0, 1, 2, 3], "stop", [VersionSpan(3, 0, 3), VersionSpan(4, 3, 4)], stop_text="cd")
    assert seen == [0, 1, 2, 3]
    assert one.surplus == 3


def test_a_stop_text_in_the_last_piece_comes_before_another_end():
    one = draft("cd")
    one.remainder()
    one.arrived([0, 2, 3, 12], None)
    whole = one.complete(Response([0, 2, 3, 12], "stop", [VersionSpan(3, 0, 4)], stopped_by=12))
    assert whole == Response([0, 2, 3], "stop", [VersionSpan(3, 0, 3)], stop_text="cd")


def test_a_response_that_lacks_nothing_is_complete_though_its_engine_died():
    one = draft("cd")
    one.remainder()
    one.arrived([0], 3)
    assert one.salvaged() is None
    one.arrived([2, 3, 4], 3)
    assert one.salvaged() == Response([0, 2, 3], "stop", [VersionSpan(3, 0, 3)], stop_text="cd")


def test_a_continuation_that_no_engine_has_room_for_ends_by_its_length():
    one = draft()
    one.remainder()
    one.arrived([5], 3)
    one.remainder()
    whole = one.complete(Response([], "too_long", [], message="memory for prompts of 2"))
    assert whole is not None
    assert (whole.tokens, whole.finish, whole.spans) == ([5], "length", [VersionSpan(3, 0, 1)])
    fresh = draft()
    fresh.remainder()
    refused = Response([], "too_long", [], message="memory for prompts of 1")
    assert fresh.complete(refused) == refused
