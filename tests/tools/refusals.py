"""Tries configurations that a process must refuse, all in one interpreter because its imports take the time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_TRY = """
import sys
from importlib import import_module
main = import_module(sys.argv[1] + ".__main__").main
for file in sys.argv[2:]:
    print(main([file]), flush=True)
    print("\\x1e", end="", file=sys.stderr, flush=True)
"""


def refusals(module: str, files: Sequence[Path]) -> list[tuple[int, str]]:
    """Returns exit status and stderr of ``python -m module FILE`` for each file."""
    command = [sys.executable, "-c", _TRY, module, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = done.stderr.split("\x1e")[:-1]
    return list(zip(map(int, done.stdout.split()), said, strict=True))
