"""What a test does where the machine lacks something that it needs.

A program that can be installed is a `MissingTool`: with LEEWAY_TEST_STRICT=1, as CI sets it, the test fails; otherwise it is
skipped. What a machine cannot help (no GPU, no root rights, no network, a data set or a virtualenv that is not there) is a
text, and the test is skipped either way. Every reason is added to the file $LEEWAY_TEST_SKIPPED: `make test` lists them.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


class MissingTool(str):
    """Reason of a test that a program of this machine's packages would let run."""

    __slots__ = ()


def strict() -> bool:
    """Whether a missing tool is a failure."""
    return os.environ.get("LEEWAY_TEST_STRICT", "0") not in ("", "0")


def missing(*programs: str) -> MissingTool | None:
    """The reason why a test cannot run without these programs; None when all are on PATH."""
    absent = [program for program in programs if shutil.which(program) is None]
    return MissingTool(f"not installed: {', '.join(absent)}") if absent else None


def refuse(reason: str) -> NoReturn:
    """Ends the running test: skipped, or failed where a tool is missing and that is not allowed."""
    if isinstance(reason, MissingTool) and strict():
        pytest.fail(f"LEEWAY_TEST_STRICT: {reason}", pytrace=False)
    pytest.skip(str(reason))


def needs(reason: str | None) -> pytest.MarkDecorator:
    """Marks tests that cannot run for this reason; None: they can. tests/conftest.py refuses them."""
    return pytest.mark.needs(reason)
