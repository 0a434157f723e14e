"""What an engine is told of the sampling: truncation only where it is wanted, and never the stop texts."""

from __future__ import annotations

from rollout.engine.sampling import Sampling


def test_truncation_is_sent_only_where_it_is_wanted():
    plain = {"temperature": 1.0, "max_new_tokens": 7, "stop_token_ids": [12]}
    assert Sampling(1.0, 7, (12,), stop=("END",)).parameters() == plain
    truncated = Sampling(1.0, 7, (12,), top_p=0.9, top_k=20, min_p=0.0)
    assert truncated.parameters() == {**plain, "top_p": 0.9, "top_k": 20, "min_p": 0.0}
