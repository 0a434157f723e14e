"""The allocator's setting: freed buffers are used again, without new pages from the kernel."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# The page faults of using 32 MB of message buffers for the second time.
FAULTS = """
import resource, sys
from runtime.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def use() -> None:
    buffers = [bytearray(b"x") * (512 << 10) for _ in range(64)]

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_buffers_are_used_again():
    assert _faults("kept") < _faults("default") / 10
