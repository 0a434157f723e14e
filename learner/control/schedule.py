"""The learning-rate schedule."""

from __future__ import annotations

from learner.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of step ``step`` (0-based) of ``steps``: linear warm-up, then constant or falling linearly to zero."""
    rising = min(1.0, (step + 1) / (config.warmup_steps + 1))
    falling = (steps - step) / steps if config.decay == "linear" else 1.0
    return config.lr * rising * falling
