"""The ranks' part of test_behaviour: publishes versions, and recomputes log-probabilities of tokens under them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from google.protobuf import json_format

from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.behaviour.recompute import Behaviour
from learner.behaviour.token_scorer import TokenScorer
from learner.config import LearnerConfig, ObjectiveConfig
from learner.control.effective_sample import ess_share
from learner.megatron.model.export import Export, Exporter
from learner.megatron.training.scorer import Scorer
from learner.megatron.training.weight_average import WeightAverage
from learner.objectives import get, names
from learner.publish.mirrors import MirrorOutcome
from learner.publish.publisher import Publisher
from learner.storage.fence import DirectoryFence
from tests.parallel.case import Case
from tests.parallel.publishing import Registry

WITH_BEHAVIOUR = [name for name in names() if get(ObjectiveConfig(name=name)).needs_behaviour]
STALENESS = {0: 2, 1: 1, 2: 0}  # version -> optimizer steps, at step 2


def recompute(case: Case) -> dict[str, Any]:
    """Publishes three versions, one per step, if the case says so, or finds them on disk; then fills a batch.

    Every rank of the last stage that has results writes them to <name>.<rank>.logp: for each sequence, the positions of its
    loss tokens, their versions, log mu and the reference's log-probabilities.
    """
    config = _config(case)
    layout = Layout(
        case.ranks.data_size, case.spec.get("micro_batches", 2), 16_384, case.ranks.tensor_size, case.ranks.context_size
    )
    scorer = Scorer(case.policy, case.ranks, config.publish.weights_dtype)
    objective = get(config.objective)
    behaviour = Behaviour(config, objective, TokenScorer(scorer, case.ranks, layout, config.seed), case.ranks)
    if case.spec["publishes"]:
        _publish(case, config, behaviour)
    elif config.objective.kl_coef:
        behaviour.freeze_reference(0, step=2)
    before = [parameter.detach().clone() for model in case.policy.models for parameter in model.parameters()]
    batch = pack(_with_versions(case.sequences), layout, case.ranks.data_rank)
    filled, numbers = behaviour.recompute(batch, 2, STALENESS)
    after = [parameter for model in case.policy.models for parameter in model.parameters()]
    kept = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert filled is not None
    if case.ranks.is_last_stage and case.ranks.tensor_rank == 0:
        rows = _rows(filled)
        (case.out / f"{case.spec['name']}.{case.ranks.rank}.logp").write_text(json.dumps(rows))
    steps = {name: case.trainer.train_step(filled, get(ObjectiveConfig(name=name)), 0.0) for name in WITH_BEHAVIOUR}
    steps["own"] = case.trainer.train_step(filled, objective, 0.0)
    losses = {name: [stats.loss, stats.grad_norm, ess_share(stats.metrics)] for name, stats in steps.items()}
    share = steps["own"].metrics["clipped_sum"] / steps["own"].metrics["clipped_count"]
    return {"kept": kept, "numbers": numbers, "losses": losses, "masked": share}


def _config(case: Case) -> LearnerConfig:
    values = case.config.model_dump(mode="json", exclude_defaults=True)
    values["publish"] = {
        "dir": case.spec["versions"],
        "dtype": case.spec["published"],
        "keep": 2,
        "full_every": 2,
        "average": 0.5,
    }
    values["behaviour"] = {"drift_every": 1, "drift_responses": len(case.sequences), **case.spec.get("behaviour", {})}
    return LearnerConfig.parse(values, source=case.spec["name"])


def _publish(case: Case, config: LearnerConfig, behaviour: Behaviour) -> None:
    fence, registry = DirectoryFence(config.publish.dir, 1), None
    if case.ranks.rank == 0:
        fence.acquire()
        registry = _Keeps(behaviour)
    publisher = Publisher(config.publish, fence, config.model, 0, registry)
    average = WeightAverage(case.trainer, config.publish.average)
    exporter = Exporter(case.policy, case.ranks, config.publish.weights_dtype, average.weights)

    def export(version: int) -> Export:
        taken = exporter.begin(whole=behaviour.caches)
        if behaviour.caches:
            behaviour.cache(version, taken.weights.hold())
        return taken

    behaviour.freeze_reference(0, step=0)
    for step in range(3):
        publisher.publish(step, export)
        if step < 2:
            case.step()  # while it is written
            average.update()
        publisher.wait()
    case.keep("now", case.export(merged=True))
    if registry is not None:
        assert not registry.failures
        policies = [json_format.MessageToDict(policy) for policy in registry.policies]
        (Path(case.spec["versions"]) / "policies.json").write_text(json.dumps(policies))


class _Keeps(Registry):
    """A registry that keeps every version that may be needed, as the loop's does."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self._behaviour = behaviour

    def mirrored(self, outcomes: Iterable[MirrorOutcome]) -> None: ...

    def in_use(self) -> set[int]:
        return self._behaviour.needed(lambda versions, bound: set(versions))


def _with_versions(sequences: list[Sequence]) -> list[Sequence]:
    """The sequences with their versions; if they have none, whole sequences of each, some ending in the next version."""
    marked = []
    for number, sequence in enumerate(sequences):
        if sequence.version is not None:
            return sequences
        version = torch.full((len(sequence.tokens),), number % 3)
        if number % 4 == 3:
            version[len(version) - len(version) // 3 :] += 1
        version = version.clamp(max=2)
        marked.append(replace(sequence, version=version))
    return marked


def _rows(batch: Batch) -> dict[int, list[tuple[float, ...]]]:
    """Position, version, log mu and the reference's log-probability, if any, of each loss token, by sequence."""
    rows: dict[int, list[tuple[float, ...]]] = {}
    for micro_batch, members in zip(batch.micro_batches, batch.members, strict=True):
        values = (micro_batch.version, micro_batch.behaviour_logp, micro_batch.reference_logp)
        positions = (micro_batch.positions[0, micro_batch.loss_index] + 1).tolist()
        found = zip(positions, *(value.tolist() for value in values if value is not None), strict=True)
        for row, item in zip(micro_batch.loss_row.tolist(), found, strict=True):
            rows.setdefault(members[row], []).append(item)
    return rows
