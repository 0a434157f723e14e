"""What the doctor says of a Redis behind sentinels."""

from __future__ import annotations

from typing import Any

import pytest

from learner.cli.doctor import redis as checked
from learner.queue.schema import SCHEMA
from learner.queue.server_inspection import Inspection
from tests.tools.doctor_site import Site

SENTINELS = {"url": "redis+sentinel://u:p@a:26379,b:26379/main/0", "run": "r"}


def inspection(**changes: Any) -> Inspection:
    values: dict[str, Any] = {
        "product": "Redis 7.0.15", "version": "7.0.15", "role": "master", "aof": True, "fsync": "always",
        "write_error": "", "policy": "noeviction", "maxmemory": 1 << 40, "used": 1, "available": 1 << 40, "refused": (),
        "write": "", "schema": SCHEMA, "skew_s": 0.0, "round_trip_s": 0.0, **changes,
    }  # fmt: skip
    return Inspection(**values)


@pytest.mark.parametrize(
    ("url", "needs_replicas", "state"),
    [
        (SENTINELS["url"], False, "warn"),
        (SENTINELS["url"], True, "ok"),
        ("redis://127.0.0.1:1/0", False, None),
    ],
)
def test_a_failover_that_may_lose_acknowledged_groups(
    site: Site, monkeypatch: pytest.MonkeyPatch, url: str, needs_replicas: bool, state: str | None
):
    monkeypatch.setattr(checked, "inspect_server", lambda queue: inspection(needs_replicas=needs_replicas))
    findings = [
        one for one in checked.redis(site.read("learner", queue={**SENTINELS, "url": url})) if "failover" in one.line
    ]
    assert [one.state for one in findings] == ([] if state is None else [state])
    if state == "warn":
        assert "min-replicas-to-write 1" in findings[0].line
