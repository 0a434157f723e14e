"""The usable memory is the machine's, unless a control group allows less."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.memory import usable_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "usable"),
    [
        ({}, MACHINE),
        ({"memory.max": "max\n"}, MACHINE),
        ({"memory.max": "268435456\n"}, 256 << 20),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),  # how version 1 says "no limit"
        ({"memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20),
    ],
)
def test_the_smaller_of_machine_and_control_group(tmp_path: Path, files: dict[str, str], usable: int):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_memory(tmp_path) == usable
