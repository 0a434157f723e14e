"""Digests travel through a collective as rows of integers and come back unchanged."""

from __future__ import annotations

import pytest

from learner.storage.digests import ROW, FileDigest, of_row, to_row
from runtime import digest


@pytest.mark.parametrize(
    "found", [FileDigest(2**40, digest.text(bytes(range(32)))), FileDigest(1, digest.text(bytes(32))), None]
)
def test_a_row_carries_any_value(found: FileDigest | None):
    row = to_row(found)
    assert len(row) == ROW
    assert of_row(row) == found
