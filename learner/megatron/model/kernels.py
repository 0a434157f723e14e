"""Which kernels a policy is computed with: fused ones where a CUDA device has them, plain operators elsewhere."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Flash attention's limits: head sizes, and the first generation of devices (Ampere) that it runs on.
_HEAD_MULTIPLE, _LARGEST_HEAD = 8, 256
_FLASH_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Kernels:
    """The kernels of one policy.

    Attributes:
        fused: whether RMSNorm, the gated activation, rotary positions and AdamW are one kernel each. The last three of a
            layer keep less for the backward pass, or nothing.
        varlen: whether one call attends within all sequences of a row, whatever their lengths. Otherwise sequences of
            similar length share a padded call (learner.megatron.model.slot_plan): on a CPU, in fp32, and under context
            parallelism, whose early and late blocks see different parts of the same keys.
    """

    fused: bool = False
    varlen: bool = False

    @classmethod
    def select(
        cls, wanted: bool, device: torch.device, dtype: torch.dtype, head_dim: int, context_size: int
    ) -> Kernels:
        """Chooses the kernels that ``device`` has for a model.

        Args:
            wanted: learner.fused_kernels.
            device: where the model is.
            dtype: data type of the hidden states.
            head_dim: width of an attention head.
            context_size: ranks that share the tokens of a row.
        """
        if not wanted or device.type != "cuda":
            return PLAIN
        fits = dtype in (torch.bfloat16, torch.float16) and context_size == 1
        fits = fits and head_dim % _HEAD_MULTIPLE == 0 and head_dim <= _LARGEST_HEAD
        return cls(fused=True, varlen=fits and torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY)


PLAIN = Kernels()


@functools.cache
def varlen_attention() -> Callable[..., Tensor]:
    """Causal attention over packed sequences, torch.nn.attention.varlen.varlen_attn with its options set.

    Takes query [n, heads, d], key and value [n, groups, d], cu_seqlens of queries and of keys [N + 1] int32, the longest
    sequence of each, and ``scale``; returns [n, heads, d].
    """
    # Imports torch's compiler, which takes seconds: only CUDA needs it.
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"window_size": (-1, 0)}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.11 takes fewer key heads as they are
        options["enable_gqa"] = True
    return functools.partial(varlen_attn, **options)  # type: ignore[return-value]  # without return_aux, a tensor


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` as one kernel. It is compiled at its first calls, for seconds, and needs a C compiler, as Triton does."""
    return torch.compile(function)
