"""Defines a name that the router of a mixture of experts looks up.

What it changes: ``megatron.core.transformer.moe.moe_utils.te_general_gemm`` becomes None where it is not defined.
Why: the module defines it only by importing TransformerEngine, but RouterGatingLinearFunction reads it in any case; None is
what it takes for "use torch.mm".
Written for: megatron-core 0.16.1. Skipped for 0.19.2, which defines the name itself.
Without it: a mixture of experts raises NameError in its first forward pass where TransformerEngine is not installed.
"""

from __future__ import annotations

from megatron.core.transformer.moe import moe_utils

from learner.megatron.patches.guard import require_release, require_signature


def apply() -> None:
    """Defines the name where it is missing.

    Raises:
        PatchError: megatron-core is not a version that this was written for.
    """
    if require_release("megatron-core") != "0.16.1":
        return
    require_signature(moe_utils.router_gating_linear, "(inp, weight, bias, router_dtype)")
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None  # type: ignore[attr-defined]
