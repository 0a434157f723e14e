"""The rank's part of a resume from a checkpoint of every kind of Adam by every other kind, stand-ins on the CPU."""

from __future__ import annotations

from typing import Any

import megatron.core.optimizer as factory
import torch
from megatron.core.optimizer import distrib_optimizer

from learner.megatron.checkpointing.sharded_state import ShardedState
from learner.megatron.model.convert import load_weights
from learner.megatron.model.hf_weights import Weights
from learner.megatron.training.trainer import Trainer, use_fused_adam
from learner.megatron.training.update_meter import optimizer_parts
from tests.parallel.case import Case
from tests.tools.fused_adam import ApexAdam, TransformerEngineAdam

# Kind -> the Adam that Megatron builds, and the package whose Adam it has imported.
KINDS = {
    "torch": (torch.optim.AdamW, None),
    "torch, fused": (torch.optim.AdamW, None),
    "TransformerEngine": (TransformerEngineAdam, TransformerEngineAdam),
    "apex": (ApexAdam, ApexAdam),
    "torch beside TransformerEngine": (torch.optim.AdamW, TransformerEngineAdam),
}


def adams(case: Case) -> dict[str, Any]:
    """Saves before the first step and after the second one with every kind; resumes the second with every other kind.

    Returns:
        For each kind, whether Megatron built it ("built"), the losses of four steps of an undisturbed run ("alone"), and
        those of two steps after a resume: of its own step 0 ("first"), and of its step 2 by each kind ("second").
    """
    found = {}
    for kind in KINDS:
        state = _start(case, kind)
        first = _save(case, state, f"{kind}.first")
        alone = [case.step().loss for _ in range(2)]
        second = _save(case, state, f"{kind}.second")
        alone += [case.step().loss for _ in range(2)]
        found[kind] = {
            "built": {type(part.optimizer) for part in optimizer_parts(case.trainer.optimizer)} == {KINDS[kind][0]},
            "alone": alone,
            "first": _resume(case, kind, first),
            "second": {other: _resume(case, other, second) for other in KINDS},
        }
    return found


def _start(case: Case, kind: str) -> ShardedState:
    """Gives the case a trainer whose Adam is of ``kind``, and the initial weights."""
    built, imported = KINDS[kind]
    factory.Adam, factory.USING_PYTORCH_OPTIMIZER = built, built is torch.optim.AdamW
    distrib_optimizer.Adam = imported or torch.optim.Adam
    distrib_optimizer.HAVE_APEX_OR_TE = imported is not None
    distrib_optimizer.USING_TE_OPTIMIZER = imported is TransformerEngineAdam
    distrib_optimizer.USING_APEX_OPTIMIZER = imported is ApexAdam
    for model in case.policy.models:
        load_weights(model, case.policy.architecture, Weights(case.config.model), case.ranks)
    case.trainer = Trainer(case.policy, case.config.optimizer, case.ranks)
    if kind == "torch, fused":  # as on a CUDA device
        use_fused_adam(part.optimizer for part in optimizer_parts(case.trainer.optimizer))
    return ShardedState(case.policy, case.trainer, case.ranks)


def _save(case: Case, state: ShardedState, name: str) -> Any:
    directory = case.out / name
    directory.mkdir()
    state.begin_save(directory)
    assert state.poll(blocking=True)
    return directory


def _resume(case: Case, kind: str, directory: Any) -> list[float]:
    _start(case, kind).load(directory)
    return [case.step().loss for _ in range(2)]
