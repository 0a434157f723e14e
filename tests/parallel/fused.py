"""Fused kernels on a CPU: stand-ins for those that only CUDA has, so that a whole model runs with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from learner.megatron.model import attention, grouped_experts
from learner.megatron.model.kernels import Kernels
from tests.tools.varlen import VarlenStandIn


@contextmanager
def fused_on_cpu() -> Iterator[None]:
    """Every policy that is built in here, and its optimizer, uses every fused kernel.

    Megatron's activation runs uncompiled, as learner.megatron.patches.cpu has it, and so do rotary positions and experts.
    """
    stand_in = VarlenStandIn()
    attention.varlen_attention = lambda: stand_in
    attention.compiled = grouped_experts.compiled = lambda function: function
    with mock.patch.object(Kernels, "select", return_value=Kernels(fused=True, varlen=True)):
        yield
