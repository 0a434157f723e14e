"""The ranks' part of test_governed: steps whose rate the governor of drift decides, with an average of the weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from learner.behaviour.drift_probe import DriftProbe
from learner.behaviour.token_scorer import TokenScorer
from learner.config.control import LrControlConfig
from learner.control.drift_governor import DriftGovernor
from learner.megatron.checkpointing.sharded_state import ShardedState
from learner.megatron.model.export import Exporter
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.weight_average import WeightAverage
from learner.objectives.policy_gradient import Reinforce
from tests.parallel.case import Case

DECAY, SAVED, STEPS = 0.8, 4, 8
CONTROL = LrControlConfig(mode="drift", drift_target=0.05, drift_every=2, drift_share=0.3, drift_start=0.5)


def governed(case: Case) -> dict[str, Any]:
    """Takes steps from the beginning, with a checkpoint in the middle if the case says so; or goes on from one.

    Keeps the weights and their average at the end, as they are exported, and the weights of every step if ``every_step``.
    """
    spec, average = case.spec, WeightAverage(case.trainer, DECAY)
    state, governor = ShardedState(case.policy, case.trainer, case.ranks, average), DriftGovernor(CONTROL, DECAY)
    tokens = TokenScorer(Scorer(case.policy, case.ranks, "float32", average), case.ranks, case.layout, seed=3)
    probe, directory = DriftProbe(CONTROL, tokens, case.ranks), Path(spec["checkpoint"])
    if spec["from"]:
        state.load(directory)
        before = json.loads((case.out / f"{spec['of']}.json").read_text())  # what that case, which saved, returned
        governor.load_state_dict(before["governor"])
    rates, movements, saved = [], [], {}
    for step in range(spec["from"], STEPS):
        if spec["every_step"]:
            case.keep(f"at{step}", case.export())
        rate = governor.decide(spec["lr"], lag=3.0).rate
        batch = case.batch([one for i, one in enumerate(case.sequences) if (i + step) % 3])
        stats = case.trainer.train_step(batch, Reinforce(), rate)
        governor.updated(rate)
        average.update()
        movement = probe.after_step(step + 1, batch, stats, rate)
        if movement is not None:
            governor.observe(movement)
            movements.append(asdict(movement))
        rates.append(rate)
        if step + 1 == SAVED and spec["saves"]:
            saved = governor.state_dict()
            if case.ranks.rank == 0:
                directory.mkdir()
            case.ranks.barrier()
            state.begin_save(directory)
    state.poll(blocking=True)
    export = Exporter(case.policy, case.ranks, "float32", average.weights).begin()
    case.keep("weights", case.export())
    case.keep("average", [(name, tensor.clone()) for name, tensor in export.shard()])
    export.release()
    held = torch.tensor(average.nbytes)
    torch.distributed.all_reduce(held)
    return {"rates": rates, "movements": movements, "governor": saved, "bytes": int(held)}
