"""What the writer of safetensors files says of a file is what is on disk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.publish import safetensors_file
from runtime import digest


@given(
    sizes=st.lists(st.integers(0, 700), max_size=6),
    piece=st.integers(1, 600),
    dtype=st.sampled_from(["float32", "uint8"]),
)
@settings(deadline=None, max_examples=15)
def test_what_is_written_is_what_is_hashed(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], piece: int, dtype: str
):
    """Whatever the pieces: the file on disk, its digest and its digest without a file agree."""
    path = tmp_path_factory.getbasetemp() / "pieces"
    tensors = {f"t{index}": torch.arange(size).to(getattr(torch, dtype)) for index, size in enumerate(sizes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors_file, "_PIECE", piece)
        written = safetensors_file.write(path, tensors)
        assert safetensors_file.digest(tensors) == written
    assert (written.size, written.digest) == digest.of_file(path)
