"""One layout of one model, built by the ranks for a test case."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._C._distributed_c10d import FileStore

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.config import LearnerConfig
from learner.megatron.model import build
from learner.megatron.model.export import Exporter, Field
from learner.megatron.model.packed_model import Policy
from learner.megatron.parallel import Ranks, start
from learner.megatron.training.trainer import StepStats, Trainer
from learner.objectives.policy_gradient import Reinforce
from tests.parallel.cells import LONGEST, PADDED
from tests.parallel.fused import fused_on_cpu

TIMEOUT_S = 120


class Case:
    """One layout of one model, built, with the batch of the reference run."""

    def __init__(self, spec: dict[str, Any], out: Path) -> None:
        self.spec = spec
        self.out = out
        self.config = LearnerConfig.parse(
            {
                "model": spec["model"],
                "queue": {"url": "redis://unused", "run": "test"},
                "steps": 1,
                "parallel": spec["parallel"],
                "dtype": spec.get("dtype", "float32"),
                "optimizer": {"clip_grad": spec["clip"], "betas": [0.9, 0.95], "eps": spec.get("eps", 1e-8)}
                | {"expert_bias_rate": spec.get("bias_rate", 0.0)},
                "objective": spec.get("objective", {"name": "reinforce"}),
                "recompute": spec.get("recompute", "none"),
                "layers": spec.get("layers", "own"),
                "overlap": spec.get("overlap"),
                "lora": spec.get("lora"),
                "replay_routing": spec.get("replay", False),
                "grouped_experts": spec.get("grouped_experts", True),
                "gradients": spec.get("gradients", "float32"),
                "checkpoint": {"dir": "unused"},
                "publish": {"dir": "unused"},
                "metrics_dir": "unused",
            },
            source=spec["name"],
        )
        store = FileStore(str(out / f"{spec['name']}.store"), int(os.environ["WORLD_SIZE"]))
        self.ranks: Ranks = start(self.config.parallel, 1, TIMEOUT_S, store)
        build.BUCKET_WEIGHTS = spec.get("bucket")
        with fused_on_cpu() if spec.get("fused") else nullcontext():
            self.policy: Policy = build.load_policy(self.config.model, self.ranks, self.config)
        rows = json.loads(Path(spec["sequences"]).read_text()) if "sequences" in spec else []
        self.sequences = [_sequence(row) for row in rows]
        self.trainer = Trainer(self.policy, self.config.optimizer, self.ranks)
        self._exporters: dict[str, Exporter] = {}

    def batch(self, sequences: list[Sequence] | None = None) -> Batch:
        """Packs this data-parallel rank's share of ``sequences``, by default all of the reference run's."""
        return pack(sequences or self.sequences, self.layout, self.ranks.data_rank)

    @property
    def layout(self) -> Layout:
        """What batches are packed with."""
        count = self.spec.get("micro_batches", 2)
        multiple = LONGEST if count == PADDED else self.ranks.tensor_size
        return Layout(self.ranks.data_size, count, 16_384, multiple, self.ranks.context_size)

    def step(self) -> StepStats:
        """Takes one step of REINFORCE on the whole batch."""
        return self.trainer.train_step(self.batch(), Reinforce(), self.spec["lr"])

    def export(self, field: Field = "data", merged: bool = False) -> list[tuple[str, Tensor]]:
        """This rank's share of the weights, or of the last step's gradients, under their Hugging Face names.

        Where adapters are trained, those of all ranks, on rank 0, and nothing elsewhere; unless they are to be ``merged``.
        """
        form = "merged" if merged or self.config.lora is None else "adapter"
        exporter = self._exporters[form] = self._exporters.get(form) or Exporter(self.policy, self.ranks, form=form)
        taken = exporter.begin(field=field)
        tensors = [(name, tensor.clone()) for name, tensor in taken.shard()]
        taken.release()
        return tensors

    def keep(self, name: str, tensors: list[tuple[str, Tensor]]) -> None:
        """Writes ``tensors`` to <out>/<case>.<name>.<rank>.safetensors; no file if there are none."""
        if tensors:
            save_file(dict(tensors), self.out / f"{self.spec['name']}.{name}.{self.ranks.rank}.safetensors")


def _sequence(row: dict[str, Any]) -> Sequence:
    return Sequence(
        torch.tensor(row["tokens"]),
        torch.tensor(row["generated"]),
        row["advantage"],
        row["weight"],
        row["temperature"],
        version=torch.tensor(row["version"]) if "version" in row else None,
    )
