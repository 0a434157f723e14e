"""The learning-rate schedule: linear warm-up, then constant or linear decay."""

from __future__ import annotations

from learner.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Scheduled learning rate of step ``step`` (0-based) in a run of ``steps``."""
    rising = min(1.0, (step + 1) / (config.warmup_steps + 1))
    falling = (steps - step) / steps if config.decay == "linear" else 1.0
    return config.lr * rising * falling
