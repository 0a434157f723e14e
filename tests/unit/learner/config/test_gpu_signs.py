"""Signs that a learner is meant for a GPU: in its settings, in the environment, on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.config import LearnerConfig
from learner.config.gpu_signs import signs_in_settings, signs_of_machine


@pytest.mark.parametrize(
    ("given", "signs"),
    [
        ({}, []),
        ({"overlap": False}, []),
        ({"dtype": "bfloat16"}, ['dtype = "bfloat16"']),
        ({"recompute": "full", "overlap": True}, ['recompute = "full"', "overlap = true"]),
    ],
)
def test_settings_that_only_pay_on_a_gpu_are_signs(given: dict[str, Any], signs: list[str]):
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
    config = LearnerConfig.parse({"model": "m", "queue": {"url": "redis://x", "run": "r"}, **unused, **given}, "test")
    assert signs_in_settings(config) == signs


def test_an_image_of_nvidias_and_a_driver_are_signs(tmp_path: Path):
    driver = tmp_path / "version"
    assert signs_of_machine({"NVIDIA_VISIBLE_DEVICES": "void", "HOME": "/"}, driver) == []
    driver.write_text("NVRM version: ...")
    found = signs_of_machine({"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VERSION": "13.2"}, driver)
    assert found == ["CUDA_VERSION", "NVIDIA_VISIBLE_DEVICES", str(driver)]
