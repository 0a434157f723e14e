"""Settings of [learner.lora], and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from learner.config import LearnerConfig, LoraConfig
from runtime.settings import SettingsError

GIVEN: dict[str, Any] = {
    "model": "m", "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused",
    "checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"},
}  # fmt: skip


def test_targets_are_all_projections_unless_they_are_named_and_come_in_their_order():
    every = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert LoraConfig(rank=8, alpha=4).targets == every
    named = LoraConfig(rank=8, alpha=4, targets=("v_proj", "q_proj"))
    assert (named.targets, named.scaling) == (("q_proj", "v_proj"), 0.5)
    assert LearnerConfig.parse(GIVEN, source="test").lora is None


@pytest.mark.parametrize(
    ("lora", "text"),
    [
        ({"rank": 0, "alpha": 1}, r"lora\.rank = 0"),
        ({"rank": 1, "alpha": 0}, r"lora\.alpha = 0"),
        ({"rank": 1}, r"lora\.alpha"),
        ({"rank": 1, "alpha": 1, "targets": []}, r"lora\.targets = \[\]"),
        ({"rank": 1, "alpha": 1, "targets": ["lm_head"]}, r"lora\.targets.* = 'lm_head'"),
        ({"rank": 1, "alpha": 1, "targets": ["q_proj", "q_proj"]}, "name each projection once"),
        ({"rank": 1, "alpha": 1, "dropout": 0.1}, "dropout"),
    ],
)
def test_bad_values_are_refused_by_name(lora: dict[str, Any], text: str):
    with pytest.raises(SettingsError, match=text):
        LearnerConfig.parse({**GIVEN, "lora": lora}, source="test")


def test_adapters_are_published_only_where_there_are_some():
    published = {"publish": {"dir": "unused", "form": "adapter"}}
    with pytest.raises(SettingsError, match=r'publish\.form = "adapter" without \[learner\.lora\]'):
        LearnerConfig.parse(GIVEN | published, source="test")
    assert LearnerConfig.parse(GIVEN | published | {"lora": {"rank": 1, "alpha": 1}}, source="test").lora
