"""Ranks that cannot be laid out say so before they wait for each other."""

from __future__ import annotations

import pytest

from learner.config import ParallelConfig
from learner.megatron.parallel import LayoutError, start


def test_world_size_that_does_not_divide(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(LayoutError, match=r"world size 6 is not divisible .* 2 \* 2 = 4: start a multiple of 4 ranks"):
        start(ParallelConfig(tensor=2, pipeline=2), seed=0, timeout_s=1)


def test_not_started_by_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(LayoutError, match=r"torch\.distributed\.run"):
        start(ParallelConfig(), seed=0, timeout_s=1)
