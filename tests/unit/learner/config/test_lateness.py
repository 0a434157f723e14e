"""How long a late group may be trained: the default, what the settings say, and settings that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from learner.config import AdmissionConfig, LearnerConfig
from learner.config.lateness import check_expire_after
from runtime.settings import SettingsError


def learner(**values: Any) -> LearnerConfig:
    base: dict[str, Any] = {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "checkpoint": {"dir": "c"},
        "publish": {"dir": "p"}, "metrics_dir": "x",
    }  # fmt: skip
    return LearnerConfig.parse({**base, **values}, "test")


@pytest.mark.parametrize(
    ("settings", "bound"),
    [
        ({"max_staleness": 4}, 32),
        ({"max_staleness": 4, "late": "expire"}, 4),
        ({"max_staleness": 4, "expire_after": 100}, 100),
        ({"max_staleness": 4, "expire_after": 4}, 4),
        ({"max_staleness": 0}, 0),  # strictly on-policy stays what it is
        # What recomputes log mu reads the version from disk: 8 * max_staleness of them would fill it.
        ({"max_staleness": 4, "objective": {"name": "grpo"}}, 8),
        ({"max_staleness": 0, "objective": {"name": "grpo"}}, 0),
        ({"max_staleness": 4, "objective": {"name": "grpo"}, "expire_after": 40}, 40),
    ],
)
def test_the_age_at_which_groups_expire(settings: dict[str, Any], bound: int):
    assert learner(**settings).expiry_bound == bound


def test_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(SettingsError, match="expire_after = 3 is below max_staleness = 4"):
        learner(max_staleness=4, expire_after=3)
    with pytest.raises(SettingsError, match='expire_after = 9 has no effect with late = "expire"'):
        learner(expire_after=9, late="expire")
    with pytest.raises(ValueError, match="expire_after = 3 is below max_staleness = 4"):
        AdmissionConfig(max_staleness=4, expire_after=3)
    check_expire_after(None, 4, "expire")
