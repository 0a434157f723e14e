"""Tensors that are float32 whatever the dtype of a version: rounded to fewer digits they would choose other experts."""

from __future__ import annotations

_WIDE = ("mlp.gate.e_score_correction_bias",)  # how their names end


def is_wide(name: str) -> bool:
    """Whether the tensor of this Hugging Face name is float32 in every version."""
    return name.endswith(_WIDE)


def dtype_of(name: str, dtype: str) -> str:
    """The dtype, "float32" or "bfloat16", of a tensor in a version whose weights are of ``dtype``."""
    return "float32" if is_wide(name) else dtype
