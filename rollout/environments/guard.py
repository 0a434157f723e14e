"""How a host is started: below a guard that kills its process group when the process that started it dies."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

GUARD = Path(__file__).parents[1] / "engine" / "parent_death_guard.py"
_ROOMS = ("rollout", "runtime")  # what a host imports of this repository


def host_command(python: Path | None) -> list[str]:
    """Returns the command of a host that ends with this process.

    Args:
        python: its interpreter; None: this process's.
    """
    guard = [sys.executable, "-S", "-E", str(GUARD), str(os.getpid())]
    return [*guard, str(python or sys.executable), "-m", "rollout.environments.host"]


def host_environment(path: Path | None) -> dict[str, str]:
    """Returns a host's environment: this process's.

    Args:
        path: directory that PYTHONPATH begins with; None: as it is.
    """
    if path is None:
        return dict(os.environ)
    joined = os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": joined}


@contextlib.contextmanager
def import_path() -> Iterator[Path]:
    """A directory for PYTHONPATH with our own rooms alone: what is beside them would hide another virtualenv's packages."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory(prefix="leeway-path-") as directory:
        for room in _ROOMS:
            os.symlink(root / room, Path(directory, room))
        yield Path(directory)
