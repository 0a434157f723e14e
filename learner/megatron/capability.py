"""What of megatron-core needs CUDA and TransformerEngine: context and expert parallelism, mixtures of experts. All refused.

Megatron-core's own attention asserts that there is no context parallelism, its expert parallelism needs an all-to-all that
gloo has not, and its grouped experts come with TransformerEngine. Our layers (learner.megatron.attention) do without it and
offer neither; layers that would have to be built and proved where there are several GPUs.
"""

from __future__ import annotations

import importlib.util

import torch


def refusal(what: str, instead: str) -> str:
    """Why ``what`` cannot be had, naming what this machine lacks for it, and what to do instead."""
    absent = [] if torch.cuda.is_available() else ["a CUDA device"]
    absent += [] if importlib.util.find_spec("transformer_engine") else ["the package transformer_engine"]
    lacking = f"; this machine lacks {' and '.join(absent)} besides" if absent else ""
    return f"{what} needs layers of TransformerEngine on CUDA, which this learner does not build{lacking}: {instead}"
