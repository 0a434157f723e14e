"""Files are where their name says: few at the top, unit tests in the mirror of the modules they test."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tests.unit.repository.sources import PACKAGES, Repository

_MOST_AT_THE_TOP = 7

# Unit tests without a module of their name, each with its reason.
_WITHOUT_A_MODULE = {
    "tests/unit/learner/gateway/test_share_fairness.py",  # shares, leases and the learner's turns together, simulated
    "tests/unit/learner/objectives/test_by_hand.py",  # several modules of the room against numbers worked by hand
    "tests/unit/learner/objectives/test_segments.py",  # from groups through packing to the gradient, for every objective
    "tests/unit/rollout/client/test_standalone.py",  # about the package: what importing it loads
}


@pytest.mark.parametrize("package", ["learner", "rollout"])
def test_few_files_lie_beside_the_rooms(repository: Repository, package: str):
    beside = sorted(path for path in repository.files if PurePosixPath(path).parent == PurePosixPath(package))
    assert len(beside) <= _MOST_AT_THE_TOP, beside


def test_every_unit_test_has_its_module(repository: Repository):
    alone = {
        path
        for path in map(PurePosixPath, repository.files)
        if path.match("tests/unit/*/**/test_*.py") or path.match("tests/unit/*/test_*.py")
        if path.parts[2] in PACKAGES and not _has_a_module(path, repository.files)
    }
    assert {str(path) for path in alone} == _WITHOUT_A_MODULE


def _has_a_module(test: PurePosixPath, files: frozenset[str]) -> bool:
    directory, name = PurePosixPath(*test.parts[2:-1]), test.stem.removeprefix("test_")
    if directory.name == name:
        return str(directory / "__init__.py") in files
    return {str(directory / f"{name}.py"), str(directory / name / "__init__.py")} & files != set()
