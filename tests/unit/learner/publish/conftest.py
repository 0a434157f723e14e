"""Fixtures of the tests of publication."""

from __future__ import annotations

import pytest

from runtime import transfer


@pytest.fixture(autouse=True)
def _no_pauses_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PAUSES_S", (0.0, 0.0))
