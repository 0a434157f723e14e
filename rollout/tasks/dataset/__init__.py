"""The task dataset: its prompts are the rows of JSON lines, Parquet files or a Hugging Face dataset."""

from __future__ import annotations

from rollout.tasks.dataset.task import Dataset

__all__ = ["Dataset"]
