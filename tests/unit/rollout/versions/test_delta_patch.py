"""A delta that does not fit the files it is applied to is refused, with the file and the tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rollout.versions.delta_patch import patch
from runtime.version_format.delta_codec import DeltaError

_ZEROS = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("delta", "words"),
    [
        ({"other": _ZEROS}, "other is no tensor of the base"),
        ({"a": np.zeros(5, np.float32)}, r"a is F32\[5\], the base's F32\[4\]"),
        ({"a": _ZEROS.astype(np.float16)}, r"a is F16\[4\], the base's F32\[4\]"),
        ({"a#values": _ZEROS[:1]}, "a#values without a#gaps"),
        ({"a#values": _ZEROS[:1], "a#gaps": np.array([4], np.uint8)}, "beyond the base's 4"),
        ({"a#values": _ZEROS[:1], "a#gaps": np.zeros(2, np.uint8)}, "changes 2 elements"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused(tmp_path: Path, delta: dict[str, np.ndarray], words: str):
    save_file({"a": _ZEROS}, tmp_path / "base")
    save_file(delta, tmp_path / "delta")
    with pytest.raises(DeltaError, match=words):
        patch([tmp_path / "base"], [tmp_path / "delta"])


def test_the_files_are_changed_in_place_and_in_nothing_else(tmp_path: Path):
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": _ZEROS}, tmp_path / "base")
    delta = {"a#gaps": np.array([1, 2, 2], np.uint8), "a#values": np.array([7, 8, 9], np.float32)}
    save_file({**delta, "b": _ZEROS + 1}, tmp_path / "delta")
    patch([tmp_path / "base"], [tmp_path / "delta"])
    found = load_file(tmp_path / "base")
    assert found["a"].tolist() == [[0, 7, 2], [8, 4, 9]]
    assert found["b"].tolist() == [1] * 4
