"""Group ids are UUIDs of version 7."""

from __future__ import annotations

import time
import uuid

from rollout.client import new_group_id


def test_group_ids_are_uuid7_and_sort_by_time():
    before = time.time_ns() // 1_000_000
    ids = [new_group_id() for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == 1000
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert before <= parsed.int >> 80 <= after
