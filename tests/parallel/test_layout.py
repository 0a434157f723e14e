"""Ranks that cannot be laid out say so before they wait for each other."""

from __future__ import annotations

import pytest

from learner.config import LearnerConfig, ParallelConfig
from learner.megatron.parallel import LayoutError, start
from learner.megatron.training.pipeline import microbatch_group_size
from runtime.settings import SettingsError


def test_world_size_that_does_not_divide(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(LayoutError, match=r"world size 6 is not divisible by .* = 4 .*: start a multiple of 4 ranks"):
        start(ParallelConfig(tensor=2, pipeline=2), seed=0, timeout_s=1)


def test_not_started_by_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(LayoutError, match=r"torch\.distributed\.run"):
        start(ParallelConfig(), seed=0, timeout_s=1)


@pytest.mark.parametrize(
    ("cut", "ranks"),
    [
        ({}, 1),
        ({"tensor": 2, "pipeline": 2}, 4),
        ({"context": 2, "tensor": 2}, 4),
        ({"expert": 4, "tensor": 2}, 4),  # experts are shared out among ranks that are there for something else too
        ({"expert": 3, "tensor": 2, "pipeline": 2}, 12),
    ],
)
def test_fewest_ranks(cut, ranks):
    assert ParallelConfig(**cut).ranks == ranks


def test_virtual_pipeline_without_a_pipeline():
    with pytest.raises(ValueError, match="virtual_pipeline = 2 needs pipeline > 1"):
        ParallelConfig(virtual_pipeline=2)


def test_too_few_micro_batches_to_interleave():
    given = {"model": "m", "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused"}
    given |= {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}}
    given |= {"parallel": {"pipeline": 4, "virtual_pipeline": 2}, "min_micro_batches": 3}
    with pytest.raises(SettingsError, match=r"min_micro_batches = 3 is below parallel\.pipeline = 4"):
        LearnerConfig.parse(given, source="test")


@pytest.mark.parametrize(
    ("micro_batches", "stages", "size"), [(4, 2, 2), (5, 2, 3), (7, 4, 7), (8, 4, 4), (9, 4, 5), (2, 2, 2)]
)
def test_groups_of_micro_batches_are_as_small_as_the_schedule_allows(micro_batches, stages, size):
    assert microbatch_group_size(micro_batches, stages) == size


def test_fewer_micro_batches_than_stages():
    with pytest.raises(ValueError, match=r"3 micro-batches for parallel\.pipeline = 4 stages"):
        microbatch_group_size(3, 4)
