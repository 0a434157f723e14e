"""The learner's part: it trains two steps on one rank, and publishes the weights before and after them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from learner.config import PublishConfig
from learner.megatron.model.export import Export, Exporter
from learner.megatron.model.packed_row import PackedRow
from learner.publish.publisher import Publisher
from learner.storage.fence import DirectoryFence
from leeway.v1 import rollout_pb2
from tests.parallel.case import Case
from tests.parallel.publishing import Registry

STEPS = 2
_LENGTHS = (41, 29, 17, 8)
_LEARNING_RATE = 1e-2  # two steps move weights of 0.1 by 0.02: what is generated changes


@dataclass(frozen=True)
class Trained:
    """What the learner left.

    Attributes:
        policies: the announcements of versions 0 (before any step) to STEPS.
        sequences: random token ids.
        logits: the learner's own, of each sequence's every position but the last, [T - 1, V], after the last step.
    """

    policies: list[rollout_pb2.Policy]
    sequences: list[Tensor]
    logits: list[Tensor]


def train(model: Path, vocabulary: int, out: Path) -> Trained:
    """Trains two steps and publishes a version before each and after the last.

    Args:
        model: the directory to begin with.
        vocabulary: number of its token ids.
        out: an empty directory; the versions come to ``out``/weights.

    Raises:
        OSError: a version could not be written.
        AssertionError: a step was left out.
    """
    rows = _rows(vocabulary)
    (out / "sequences.json").write_text(json.dumps(rows))
    case = Case(
        {
            "name": "family", "model": str(model), "parallel": {}, "clip": 1e9, "lr": _LEARNING_RATE,
            "sequences": str(out / "sequences.json"),
        },
        out,
    )  # fmt: skip
    try:
        policies = _publish(case, out / "weights")
        return Trained(policies, [one.tokens for one in case.sequences], _logits(case))
    finally:
        case.ranks.stop()


def _publish(case: Case, root: Path) -> list[rollout_pb2.Policy]:
    config, registry = PublishConfig(dir=root, dtype="float32", keep=STEPS + 1), Registry()
    fence = DirectoryFence(root, 1)
    fence.acquire()
    publisher = Publisher(config, fence, case.config.model, 0, registry)
    exporter = Exporter(case.policy, case.ranks, config.weights_dtype)

    def export(version: int) -> Export:
        return exporter.begin()

    for step in range(STEPS + 1):
        if step:
            skipped = case.step().skipped
            assert skipped is None, skipped
        publisher.publish(step, export)
        publisher.wait(600)
    if len(registry.policies) != STEPS + 1:
        raise OSError(f"versions {registry.failures} could not be written to {root}")
    return registry.policies


@torch.no_grad()
def _logits(case: Case) -> list[Tensor]:
    """Logits of every position that has a next token."""
    (model,) = case.policy.models
    found = []
    for one in case.sequences:
        batch = pack([Sequence(one.tokens, torch.arange(len(one.tokens)) > 0, 1.0, 1.0)], Layout())
        (row,) = batch.micro_batches
        packed = PackedRow.of(
            row, case.policy.rotary, case.policy.dtype, torch.device("cpu"), kernels=case.policy.kernels
        )
        found.append(model(row.tokens, row.positions, packed) @ model.head.T)
    return found


def _rows(vocabulary: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(3)
    return [
        {
            "tokens": torch.randint(vocabulary, (length,), generator=draw).tolist(),
            "generated": [place > 2 for place in range(length)],
            "advantage": sign, "weight": 1.0, "temperature": 1.0,
        }
        for length, sign in zip(_LENGTHS, (1.0, -0.5, 0.75, -1.0), strict=True)
    ]  # fmt: skip
