"""Fixtures of the tests of the repository's hygiene."""

from __future__ import annotations

import pytest

from tests.unit.repository.sources import Repository


@pytest.fixture(scope="session")
def repository() -> Repository:
    """The working tree; each file is read and parsed once for all tests."""
    return Repository.read()
