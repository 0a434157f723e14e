"""Random states of a rank: torch's, the device's, and megatron's named ones.

They belong to a rank in a layout. Resumed under the same layout every rank gets its own back; under another there is no
right answer, and the states of the start (from the run's seed) stay.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

from learner.megatron.parallel import Ranks


def capture(ranks: Ranks) -> bytes:
    """This rank's states."""
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
    """Sets the states that ``capture`` saw; False, and nothing is set, when they are another layout's.

    Raises:
        ValueError, KeyError, RuntimeError: not what ``capture`` returned.
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
    """Device, world and how it is cut."""
    return [
        ranks.device.type,
        ranks.world,
        ranks.tensor_size,
        ranks.context_size,
        ranks.expert_size,
        ranks.pipeline_size,
    ]
