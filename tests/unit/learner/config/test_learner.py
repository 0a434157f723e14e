"""Settings of the learner that follow other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.config import LearnerConfig
from runtime.settings import SettingsError


def parsed(publish: dict[str, Any], **values: Any) -> LearnerConfig:
    given = {
        "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "checkpoint": {"dir": "c"},
        "publish": {"dir": "p", **publish}, "metrics_dir": "d", **values,
    }  # fmt: skip
    return LearnerConfig.parse(given, source="test")


@pytest.mark.parametrize(
    ("trained", "set_to", "published"),
    [
        ({}, {}, "float32"),
        ({"dtype": "bfloat16"}, {}, "bfloat16"),
        ({"dtype": "bfloat16"}, {"dtype": None}, "bfloat16"),  # as the run file passes on what is not set
        ({"dtype": "bfloat16"}, {"dtype": "float32"}, "float32"),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_versions_are_published_as_the_learner_trains_unless_set(
    trained: dict[str, Any], set_to: dict[str, Any], published: str, tmp_path: Path
):
    config = parsed(set_to, **trained)
    assert (config.publish.dtype, config.publish.weights_dtype) == (published, published)
    config.write(tmp_path / "learner.json")
    assert LearnerConfig.load(tmp_path / "learner.json") == config


def test_a_data_type_that_there_is_not_is_named_once():
    with pytest.raises(SettingsError) as caught:
        parsed({}, dtype="float16")
    assert str(caught.value) == "test: dtype = 'float16': Input should be 'float32' or 'bfloat16'"


def test_adapters_have_no_correction_bias():
    lora = {"rank": 4, "alpha": 8}
    settings = {"model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "metrics_dir": "m"}
    settings |= {"checkpoint": {"dir": "c"}, "publish": {"dir": "p"}, "optimizer": {"expert_bias_rate": 0.001}}
    LearnerConfig.parse(settings, source="test")
    with pytest.raises(SettingsError, match=r"optimizer\.expert_bias_rate = 0\.001 with \[learner\.lora\]"):
        LearnerConfig.parse(settings | {"lora": lora}, source="test")


def test_gradients_are_not_coarser_than_the_weights():
    assert parsed({}, dtype="bfloat16", gradients="bfloat16").gradients == "bfloat16"
    with pytest.raises(SettingsError, match='gradients = "bfloat16" with dtype = "float32"'):
        parsed({}, gradients="bfloat16")
