"""The learning-rate schedule, worked by hand."""

import pytest

from learner.config import OptimizerConfig
from learner.control.schedule import learning_rate


def test_constant_after_a_linear_warm_up():
    config = OptimizerConfig(lr=1.0, warmup_steps=3)
    assert [learning_rate(config, step, 100) for step in (0, 1, 2, 3, 99)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_linear_decay_ends_just_above_zero():
    config = OptimizerConfig(lr=1.0, decay="linear")
    assert [learning_rate(config, step, 4) for step in range(4)] == pytest.approx([1.0, 0.75, 0.5, 0.25])
