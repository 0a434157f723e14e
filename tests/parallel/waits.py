"""The ranks' part of test_waits: which operations of a training step would wait for a CUDA device."""

from __future__ import annotations

from typing import Any
from unittest import mock

from learner.config.control import DiagnosticsConfig
from learner.megatron.model import attention
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.training.trainer import Trainer, use_fused_adam
from learner.megatron.training.update_meter import optimizer_parts
from learner.objectives import get
from tests.parallel.case import Case
from tests.parallel.cell import _batch
from tests.tools.waits import Waits


def waits(case: Case) -> dict[str, Any]:
    """Takes two steps, the second of which is watched, with the update's length measured and a gradient that is clipped."""
    trainer = Trainer(case.policy, case.config.optimizer, case.ranks, DiagnosticsConfig(update_stride=1))
    objective, seen = get(case.config.objective), Waits()
    use_fused_adam(part.optimizer for part in optimizer_parts(trainer.optimizer))  # the others count steps on the host
    batch = _batch(case, objective)
    trainer.train_step(batch, objective, case.spec["lr"])
    kernel, plan = seen.on_host(attention.varlen_attention()), seen.on_host(PackedRow.of)  # the former is a stand-in
    row, attend = (
        mock.patch.object(PackedRow, "of", plan),
        mock.patch.object(attention, "varlen_attention", return_value=kernel),
    )
    with row, attend, seen.watching(operators=case.ranks.context_size == 1):
        stats = trainer.train_step(batch, objective, case.spec["lr"])
    # Megatron compares the states of the host's own random numbers.
    found = [one for one in seen.found if one != "item in random.py:fork"]
    return {"waits": found, "norm": stats.grad_norm, "update": stats.update is not None}
