"""Digests of files do not depend on how the bytes come in, and every byte counts."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import digest

_LENGTH = 70_000  # several of BLAKE3's chunks and subtrees
_CONTENT = bytes(index * index % 251 for index in range(_LENGTH))


@given(
    cuts=st.lists(st.integers(0, _LENGTH)), end=st.integers(0, _LENGTH), algorithm=st.sampled_from(["blake3", "sha256"])
)
@settings(deadline=None, max_examples=60)
def test_pieces_of_any_size_give_what_the_whole_gives(cuts: list[int], end: int, algorithm: str):
    found = digest.hasher(algorithm)
    for start, stop in pairwise([0, *sorted(min(cut, end) for cut in cuts), end]):
        found.update(memoryview(_CONTENT)[start:stop])
    whole = {"blake3": blake3, "sha256": hashlib.sha256}[algorithm](_CONTENT[:end])
    assert digest.text(found.digest(), algorithm) == f"{algorithm}:{whole.hexdigest()}"


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 199, 200, 1000])
@pytest.mark.parametrize("algorithm", ["blake3", "sha256"])
def test_a_file_of_any_length_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, algorithm: str
):
    monkeypatch.setattr(digest, "_BLOCK", 100)
    (tmp_path / "file").write_bytes(_CONTENT[:size])
    whole = digest.hasher(algorithm)
    whole.update(memoryview(_CONTENT)[:size])
    assert digest.of_file(tmp_path / "file", algorithm) == (size, digest.text(whole.digest(), algorithm))


@pytest.mark.parametrize("index", [0, 99, 100, 250, 299])
def test_one_bit_anywhere_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int):
    monkeypatch.setattr(digest, "_BLOCK", 100)
    content = bytearray(_CONTENT[:300])
    (tmp_path / "file").write_bytes(content)
    before = digest.of_file(tmp_path / "file")
    content[index] ^= 1
    (tmp_path / "file").write_bytes(content)
    assert digest.of_file(tmp_path / "file") != before


def test_blake3_is_the_published_function():
    """Checks the test vector of its authors for a single zero byte."""
    found = digest.hasher()
    found.update(memoryview(b"\0"))
    assert digest.text(found.digest()) == "blake3:2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_algorithms_that_are_not_known_are_refused_by_name():
    with pytest.raises(digest.DigestError, match="algorithm 'md5' is not known, only blake3 and sha256"):
        digest.algorithm_of("md5:00")
