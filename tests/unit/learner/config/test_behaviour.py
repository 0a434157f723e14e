"""How much host memory caches versions: by the model and the staleness, within a share of the machine's, or as set."""

from __future__ import annotations

from learner.config.behaviour import BehaviourConfig, cache_limit, cache_room

GIB = 1 << 30


def test_the_default_holds_the_versions_in_use_of_a_model_of_any_size():
    assert BehaviourConfig().cache_bytes is None
    for version_bytes in (1000, 8 * GIB):  # 8 GiB: a rank's whole shard of a 4B model in bfloat16
        assert cache_limit(None, 4, version_bytes, 1000 * GIB) == 6 * version_bytes


def test_the_default_is_bounded_by_a_share_of_the_memory_for_all_ranks_together():
    assert cache_room(128 * GIB, 1) == 32 * GIB
    assert cache_limit(None, 4, 8 * GIB, cache_room(128 * GIB, 1)) == 32 * GIB
    assert 8 * cache_limit(None, 4, 8 * GIB, cache_room(128 * GIB, 8)) == 32 * GIB


def test_what_is_set_is_what_is_used():
    assert cache_limit(0, 4, GIB, 100 * GIB) == 0
    assert cache_limit(200 * GIB, 4, GIB, 100 * GIB) == 200 * GIB
