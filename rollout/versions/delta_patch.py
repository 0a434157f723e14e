"""Applying a delta to the files of its base, in place. numpy, no torch. The format is in proto/leeway/v1/manifest.proto."""

from __future__ import annotations

from pathlib import Path

from runtime.version_format.delta_codec import DeltaError, apply_change, changes_in
from runtime.version_format.safetensors_header import StoredTensor, read_header
from runtime.version_format.tensor_bits import map_bits


def patch(files: list[Path], delta: list[Path]) -> None:
    """Replaces the elements in ``files`` that the delta changes.

    Args:
        files: safetensors files of the base; changed.
        delta: the delta's safetensors files.

    Raises:
        DeltaError: the delta changes a tensor that the base lacks, or that has another dtype, shape or size there.
        HeaderError: a file is not safetensors, or incomplete.
        OSError: a file cannot be read or written.
    """
    base: dict[str, StoredTensor] = {}
    for path in files:
        base |= read_header(path).tensors
    for path in delta:
        for name, change in changes_in(read_header(path).tensors).items():
            if name not in base:
                raise DeltaError(f"{path.name}: {name} is no tensor of the base")
            apply_change(name, change, base[name], map_bits(base[name]))
