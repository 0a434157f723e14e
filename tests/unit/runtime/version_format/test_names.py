"""Names of version directories, there and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.version_format.names import version_name, version_of, versions_on_disk


@pytest.mark.parametrize("version", [0, 12, 999_999, 1_000_000])
def test_a_name_is_read_back_as_its_number(version: int):
    assert version_of(version_name(version)) == version


@pytest.mark.parametrize("name", ["weight_v12", "weight_v000012.part", "weight_v-00001", "latest", ".epoch_00000001"])
def test_other_names_are_no_versions(name: str):
    assert version_of(name) is None


def test_versions_on_disk_are_in_order_of_their_numbers(tmp_path: Path):
    for name in ("weight_v1000000", "weight_v000002", "weight_v000010", "weight_vx", "pinned"):
        (tmp_path / name).mkdir()
    assert versions_on_disk(tmp_path) == [2, 10, 1_000_000]
