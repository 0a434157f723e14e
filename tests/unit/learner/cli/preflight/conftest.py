"""The settings files of a deployment, which tests of the preflight spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.doctor_site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Files of a gateway, a learner and a worker without any fault."""
    return Site(tmp_path)
