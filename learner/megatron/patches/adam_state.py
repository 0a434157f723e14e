"""Gives torch's Adam its state before its first step.

What it changes: the private state dictionaries of torch.optim.Adam, filled with the zeros that its first step would start
from.
Why: Megatron's distributed optimizer saves and loads the moments of every parameter, and takes it for granted that they are
there. torch.optim.Adam makes them in its first step.
Written for: megatron-core 0.16.1, torch 2.13.0.
Without it: saving before the first step, and loading into a new learner, raise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from learner.megatron.patches.guard import require_release

require_release("megatron-core")
require_release("torch")


def initialize(optimizers: Iterable[Any]) -> None:
    """Sets step, exp_avg and exp_avg_sq to zero for every parameter that has no state yet.

    Args:
        optimizers: Megatron optimizers, each around one torch.optim.Adam.
    """
    for optimizer in optimizers:
        for group in optimizer.optimizer.param_groups:
            for parameter in group["params"]:
                if not optimizer.optimizer.state[parameter]:
                    optimizer.optimizer.state[parameter] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
