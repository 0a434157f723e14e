"""Saves and restores a rank's random states: torch's, the device's, and megatron's named ones.

A state belongs to one rank of one layout. After a resume under the same layout every rank restores its own; under another
layout there is no right state to restore, and the states of the start, from the run's seed, stay.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

from learner.megatron.parallel import Ranks


def capture(ranks: Ranks) -> bytes:
    """Serialises this rank's random states."""
    states = {
        "layout": _layout(ranks),
        "torch": torch.get_rng_state(),
        "megatron": _tracker().get_states(),
    }
    if ranks.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(ranks.device)
    content = io.BytesIO()
    torch.save(states, content)
    return content.getvalue()


def restore(content: bytes, ranks: Ranks) -> bool:
    """Sets the random states in ``content``. Returns False, and sets nothing, if they are of another layout.

    Raises:
        ValueError, KeyError, RuntimeError: ``content`` is not what ``capture`` returned.
    """
    states = torch.load(io.BytesIO(content), weights_only=True)
    if states["layout"] != _layout(ranks):
        return False
    torch.set_rng_state(states["torch"])
    _tracker().set_states(states["megatron"])
    if ranks.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], ranks.device)
    return True


def _tracker() -> Any:
    return get_cuda_rng_tracker()


def _layout(ranks: Ranks) -> list[int | str]:
    """The properties that two layouts must share for a rank's random states to fit: device, world size, all dimensions."""
    return [
        ranks.device.type,
        ranks.world,
        ranks.tensor_size,
        ranks.context_size,
        ranks.expert_size,
        ranks.pipeline_size,
    ]
