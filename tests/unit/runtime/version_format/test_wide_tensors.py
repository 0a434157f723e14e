"""Tensors that no version rounds."""

from __future__ import annotations

from runtime.version_format.wide_tensors import dtype_of, is_wide


def test_correction_biases_alone_are_float32_in_every_version():
    bias, weight = (f"model.layers.3.mlp.gate.{name}" for name in ("e_score_correction_bias", "weight"))
    assert is_wide(bias)
    assert not is_wide(weight)
    assert [dtype_of(name, "bfloat16") for name in (bias, weight)] == ["float32", "bfloat16"]
    assert dtype_of(bias, "float32") == "float32"
