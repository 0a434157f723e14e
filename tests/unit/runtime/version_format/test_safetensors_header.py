"""Headers as the safetensors library writes them; what is no such file, or incomplete, is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.version_format.safetensors_header import HeaderError, read_header
from runtime.version_format.tensor_bits import map_bits, read_bits

TENSORS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 4), np.float16),
    "scalar": np.array(7, np.int64),
}


def test_the_librarys_own_files_are_read(tmp_path: Path):
    path = tmp_path / "file.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.tensors.keys() == TENSORS.keys()
    assert path.read_bytes().startswith(header.raw)
    for name, array in TENSORS.items():
        stored = header.tensors[name]
        assert (stored.shape, stored.count, stored.stop - stored.start) == (array.shape, array.size, array.nbytes)
        assert read_bits(stored).tobytes() == array.tobytes()
        assert map_bits(stored).tobytes() == array.tobytes()
    map_bits(header.tensors["scalar"])[0] = 8
    assert read_bits(header.tensors["scalar"]).tolist() == [8]
    assert read_bits(header.tensors["matrix"]).tobytes() == TENSORS["matrix"].tobytes()


def _encoded(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 40, "not a safetensors file"),
        (b"\x10" + bytes(7) + b"{", "not a safetensors file"),
        (_encoded([]), "not a safetensors file"),
        (_encoded({"a": {"dtype": "F32", "shape": [1]}}), "not a safetensors file"),
        (_encoded({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}), "bytes, its header says"),
        (_encoded({}) + b"trailing", "bytes, its header says"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, content: bytes, words: str):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(HeaderError, match=rf"broken\.safetensors: .*{words}"):
        read_header(path)


def test_a_dtype_that_is_not_known_is_named(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(_encoded({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}) + b"x")
    with pytest.raises(HeaderError, match="file: dtype 'F4' is not known"):
        read_bits(read_header(path).tensors["a"])


def test_headers_are_read_without_numpy():
    code = "import sys; import runtime.version_format.safetensors_header; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
