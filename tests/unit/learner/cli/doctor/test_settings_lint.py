"""Settings that are allowed but usually a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from learner.cli.doctor.settings_lint import settings_lint
from tests.tools.doctor_site import Site, bad, examined_run


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("learner", {"objective": {"name": "grpo"}, "max_staleness": 16}, "grpo recomputes"),
        ("learner", {"max_staleness": 1, "publish": {"dir": "p", "every": 9}}, "groups expire after 8 steps"),
        ("learner", {"max_staleness": 0}, "fleets wait for every step"),
        ("learner", {"queue": {"url": "redis://x", "run": "r", "id_memory_s": 60}}, "later than that is refused"),
        ("gateway", {"insecure": True}, "plain text"),
        ("gateway", {"admission": {"lease_s": 1}}, "leases end"),
        ("worker", {"sampling": {"max_new_tokens": 64_000}, "engine": {"request_timeout_s": 300}}, "request_timeout_s"),
    ],
)
def test_settings_that_are_usually_a_mistake(site: Site, kind: str, changes: dict[str, Any], message: str):
    assert bad(settings_lint(site.read(kind))) == []
    (found,) = bad(settings_lint(site.read(kind, **changes)))
    assert message in found


def test_workers_that_ask_for_more_than_the_bound_allows(site: Site):
    (found,) = bad(settings_lint(examined_run(site, "rollout.requests=100")))
    assert "ask for 1600 groups at once, but max_staleness allows only 80" in found
