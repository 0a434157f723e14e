"""Imports the package that an adapter is for, when its task is made and not before."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from rollout.tasks import TaskError


def import_package(module: str, requirement: str) -> Any:
    """Returns a module of another project.

    Args:
        module: its name.
        requirement: what pip installs to have it, with the release that the adapter is tried with.

    Raises:
        TaskError: this interpreter cannot import it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TaskError(
            f"task.python: {sys.executable} cannot import {module}: {error}; install it there (pip install "
            f"'{requirement}'), or set task.python to the interpreter of a virtualenv that has it"
        ) from error
