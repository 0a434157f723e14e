"""The ranks' part of a cell of the equivalence matrix."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from safetensors.torch import load_file
from torch import Tensor

from learner.batch.sequences import to_sequences, token_ids
from learner.batch.types import Batch
from learner.megatron.model.convert import load_weights
from learner.megatron.model.hf_weights import Weights
from learner.megatron.model.lora import matrices
from learner.megatron.training.trainer import Trainer
from learner.objectives import Objective, get
from leeway.v1 import rollout_pb2 as pb
from runtime.routing_record import RoutingShape
from runtime.version_format.wide_tensors import is_wide
from tests.parallel.case import Case
from tests.parallel.reference_adapters import FILE
from tests.parallel.reference_routing import START, experts

PLANT = 1.01


def cell(case: Case) -> dict[str, Any]:
    """Takes the steps of the reference; then one step from the start with a planted error.

    The error is 1% in the last layer's last matrix: in the slice of the last tensor-parallel rank, or in every expert's; with
    adapters, in A of that matrix.
    """
    load_adapters(case)
    real = _train(case, get(case.config.objective), case.spec["steps"], "real")
    for model in case.policy.models:
        load_weights(model, case.policy.architecture, Weights(case.config.model), case.ranks)
    load_adapters(case)
    if case.ranks.is_last_stage:
        last: Any = case.policy.models[-1].decoder.layers[-1]
        for name, weight in last.mlp.named_parameters():
            mine = "experts" in name or case.ranks.tensor_rank == case.ranks.tensor_size - 1
            if mine and name.endswith("linear_fc2.weight" if case.config.lora is None else "down_proj_A"):
                weight.data.mul_(PLANT)
    case.trainer = Trainer(case.policy, case.config.optimizer, case.ranks)
    return {"real": real, "planted": _train(case, get(case.config.objective), 1, "planted")}


def load_adapters(case: Case) -> None:
    """Gives adapters the values of the file beside the model; those that a run begins with have no gradient of A."""
    found = matrices(case.policy.models)
    values = load_file(case.config.model / FILE) if found else {}
    for matrix in found:
        whole, ranks = values[matrix.name], case.ranks
        own = whole if matrix.dim is None else whole.chunk(ranks.tensor_size, matrix.dim)[ranks.tensor_rank]
        matrix.parameter.data.copy_(own)


def _train(case: Case, objective: Objective, steps: int, kind: str) -> dict[str, list[Any]]:
    before = dict(case.export())
    losses, scales = [], []
    for step in range(steps):
        stats = case.trainer.train_step(_batch(case, objective), objective, case.spec["lr"])
        assert stats.skipped is None, stats.skipped
        objective.observe(stats.metrics)
        losses.append(stats.loss)
        scales.append(
            [stats.metrics[f"{s}_sum"] / stats.metrics[f"{s}_count"] for s in ("nll_positive", "nll_negative")]
        )
        if step == 0:
            _gather_gradient(case)
            case.keep(f"{kind}.gradient", case.export("main_grad"))
    moved = {name: after - before[name] for name, after in case.export()}
    case.keep(f"{kind}.update", [(name, change) for name, change in moved.items() if not is_wide(name)])
    assert not any(change.any() for name, change in moved.items() if is_wide(name))  # no gradient moves these
    return {"losses": losses, "scales": scales}


def _batch(case: Case, objective: Objective) -> Batch:
    shape = case.policy.architecture.routing if case.config.replay_routing else None
    groups = [_group(row) for row in case.spec["prompts"]]
    if shape is not None:
        for group in groups:
            _add_records(group, shape)
    return case.batch(to_sequences(groups, objective.weighting, shape))


def _add_records(group: pb.Group, shape: RoutingShape) -> None:
    for response in group.responses:
        for part in response.segments or [response]:
            context = part.context_tokens if isinstance(part, pb.Segment) else group.prompt_tokens
            tokens = token_ids(context + part.tokens).tolist()
            made = np.array(experts(tokens, len(shape.layers), shape.experts)[START:-1])
            if len(made):
                ids = shape.encode(made)
                part.routed_experts.CopyFrom(pb.RoutedExperts(**shape.model_dump(), start=START, ids=ids))


def _group(row: dict[str, Any]) -> pb.Group:
    return pb.Group(
        prompt_tokens=_bytes(row["tokens"]),
        temperature=row["temperature"],
        responses=[_response(row["tokens"], a) for a in row["answers"]],
    )


def _response(prompt: list[int], answer: dict[str, Any]) -> pb.Response:
    tokens, generated = answer["tokens"], answer["generated"]
    judged = {"reward": answer["reward"], "unscored": answer["unscored"]}
    bounds = [0, *answer["cuts"], len(tokens)]
    if len(bounds) == 2 and not answer["more"]:
        return pb.Response(tokens=_bytes(tokens), spans=_spans(generated), **judged)
    cut = [_segment(prompt + tokens[:a], tokens[a:b], generated[a:b]) for a, b in itertools.pairwise(bounds)]
    return pb.Response(segments=cut + [_segment(**more) for more in answer["more"]], **judged)


def _segment(context: list[int], tokens: list[int], generated: list[bool]) -> pb.Segment:
    return pb.Segment(context_tokens=_bytes(context), tokens=_bytes(tokens), spans=_spans(generated))


def _spans(generated: list[bool]) -> list[pb.Span]:
    return [pb.Span(version=1, start=i, end=i + 1) for i, own in enumerate(generated) if own]


def _bytes(tokens: list[int]) -> bytes:
    return torch.tensor(tokens, dtype=torch.int32).numpy().astype("<i4").tobytes()


def _gather_gradient(case: Case) -> None:
    """Gathers the slices of the reduced gradient, which the distributed optimizer leaves on the data-parallel ranks."""
    group: Any = parallel_state.get_data_parallel_group(with_context_parallel=True)
    expert_group: Any = parallel_state.get_expert_data_parallel_group()
    for chunk in case.policy.chunks:
        _gather_buffers(chunk.buffers, group)
        _gather_buffers(chunk.expert_parallel_buffers, expert_group)


def _gather_buffers(buffers: Any, group: Any) -> None:
    for bucket in (bucket for buffer in buffers for bucket in buffer.buckets):
        slices: list[Tensor] = list(bucket.grad_data.chunk(dist.get_world_size(group)))
        gathered = [torch.empty_like(one) for one in slices]
        dist.all_gather(gathered, slices[dist.get_rank(group)].clone(), group=group)
        bucket.grad_data.copy_(torch.cat(gathered))
