"""How much memory a rank of the learner needs, from the model's sizes and the parallel layout. Needs no torch.

What is counted is what was measured on GPUs (BENCHMARKS.md, "On a GPU"): tensors, not the CUDA context, the communication
libraries' buffers and the allocator's gaps, which come to one or two GB on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learner.config.activation_memory import activation_bytes, logit_bytes
from learner.config.adapters import adapted_tensors, adapter_shapes
from learner.config.architectures import vocabulary_rows
from learner.config.behaviour import cache_limit
from learner.config.latent import is_latent
from learner.config.layer_parameters import LAYER_PARAMETERS
from learner.config.learner import ParallelConfig
from learner.config.lora import LoraConfig
from learner.config.model_tensors import EMBEDDING, HEAD, tensor_shapes
from learner.config.workload import WIDTH, Workload, stage_layers

_WIDE = 4  # fp32, in which the optimizer wants its gradients
_MOMENTS = 8  # Adam's two, fp32
_MASTER = 4  # the fp32 copy of a bfloat16 weight
# A step of torch's Adam makes the fp32 roots of all second moments at once on CUDA, of one tensor's at a time on a CPU, and
# none if it is fused.
_ROOTS = 4
_AVERAGE = 4  # the fp32 average of a weight, which is published in its place
_LAST_GRADIENT = 4  # the fp32 gradient of the step before, which gradients are projected by
# Copies of the weights that wait to be published or are being written; the version before is the base of a delta.
_COPIES = 2
# Tensors that every tensor-parallel rank has whole.
_WHOLE = (
    "model.norm.weight",
    *(name for found in LAYER_PARAMETERS.values() if found.dim is None for name in found.tensors),
)
_SPLIT_INPUTS = ("o_proj.weight", "down_proj.weight")
_QUERIES_KEYS_VALUES = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank; all ranks of a pipeline stage have about as many.

    Attributes:
        stage: its pipeline stage, from 0.
        weights: the model's parameters, and those of its adapters, which alone are trained where there are some: what follows
            of gradients, optimizer, averages, checkpoints and cached versions is of what is trained.
        gradients: the buffer in which they are accumulated.
        optimizer: fp32 weights and Adam's moments, divided over the data- and context-parallel ranks.
        average: the running average of the weights that is published (learner.publish.average), divided likewise.
        last_gradient: the gradient of the step before (lr_control.mode = "gac"), divided likewise.
        activations: what the backward pass needs, of all micro-batches under way.
        logits: output layer, on the last stage.
        update: what the optimizer's step needs for a moment, when activations and logits are gone.
        scoring: the weights of an earlier version or of the frozen reference, under which log-probabilities are computed
            before a step.
        gathered: the whole average of the rank's weights while a version is copied, where several ranks have parts of it.
        checkpoint: host memory into which a checkpoint's copy goes, kept for the next; ranks with equal weights share it.
        publication: host memory into which versions are copied, kept for the next: one that is being written, a newer one
            that waits, and the one before if versions hold changes; less what is cached too. And of tensors that are written
            and are no part of a copy as they are.
        reference: host memory of this rank's shard of the frozen reference (objective.kl_coef).
        version: this rank's shard of one version.
        cached: number of versions that it caches.
    """

    stage: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    last_gradient: int
    activations: int
    logits: int
    update: int
    scoring: int
    gathered: int
    checkpoint: int
    publication: int
    reference: int
    version: int
    cached: int

    @property
    def model(self) -> int:
        """The peak of what is where the model is: on the GPU, or on a CPU in host memory."""
        moment = max(self.activations + self.logits, self.update, self.scoring, self.gathered)
        return self.weights + self.gradients + self.optimizer + self.average + self.last_gradient + moment

    @property
    def cache(self) -> int:
        """Host memory of earlier versions' weights."""
        return self.cached * self.version

    @property
    def host(self) -> int:
        """Host memory besides."""
        return self.checkpoint + self.publication + self.reference + self.cache


def parameter_count(config: Mapping[str, Any]) -> int:
    """Number of the model's parameters, from a checked config.json, without adapters."""
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def adapter_count(config: Mapping[str, Any], lora: LoraConfig) -> int:
    """Number of the parameters of a model's adapters, from a checked config.json."""
    return sum(math.prod(shape) for shape in adapter_shapes(config, lora).values())


def memory_by_stage(config: Mapping[str, Any], work: Workload) -> list[RankMemory]:
    """Memory of a rank of each pipeline stage.

    Args:
        config: content of the model's config.json, checked; the layout divides it.
        work: what the learner does with it.
    """
    parallel, width = work.parallel, work.width
    found = []
    for stage in range(parallel.pipeline):
        dense, experts = _parameters(config, parallel, stage)
        own, adapters = dense + experts, _adapter_parameters(config, work, stage)
        if adapters:
            dense, experts = adapters, 0  # from here on, what is trained
        trained = dense + experts
        # Ranks that have equal weights share the optimizer's state of them.
        dense_shard = dense * parallel.tensor * parallel.pipeline // work.world
        expert_shard = experts * parallel.expert * parallel.pipeline // work.world
        shard = dense_shard + expert_shard
        shared = (dense if dense_shard < dense else 0) + (experts if expert_shard < experts else 0)
        average = _AVERAGE if work.averaged else 0
        last_gradient = _LAST_GRADIENT if work.projects else 0
        state = _MOMENTS + (_MASTER if width < _MASTER else 0)
        version = trained * WIDTH[work.copied]
        cached = _cached(version, work)
        found.append(
            RankMemory(
                stage=stage,
                weights=(own + adapters) * width,
                gradients=trained * WIDTH[work.gradients],
                optimizer=shard * state,
                average=shard * average,
                last_gradient=shard * last_gradient,
                activations=activation_bytes(config, work, stage),
                logits=logit_bytes(config, work) if stage == parallel.pipeline - 1 else 0,
                update=_update(shard, work),
                scoring=(own if work.merges else trained) * width if work.versions or work.reference else 0,
                gathered=shared * WIDTH[work.copied] if work.averaged else 0,
                checkpoint=shard * (width + _MOMENTS + _MASTER + average + last_gradient),
                publication=_publication_bytes(config, work, version, cached),
                reference=version if work.reference else 0,
                version=version,
                cached=cached,
            )
        )
    return found


def checkpoint_bytes(parameters: int, dtype: str, averaged: bool = False, projects: bool = False) -> int:
    """Size of a checkpoint: weights, fp32 weights, Adam's moments, and the average and last gradient if they are kept.

    Args:
        parameters: number of the parameters that are trained: the model's, or those of its adapters.
        dtype: "float32" or "bfloat16", of the weights.
        averaged: whether learner.publish.average is on.
        projects: whether gradients are projected (lr_control.mode = "gac").
    """
    kept = (_AVERAGE if averaged else 0) + (_LAST_GRADIENT if projects else 0)
    return parameters * (WIDTH[dtype] + _MASTER + _MOMENTS + kept)


def _publication_bytes(config: Mapping[str, Any], work: Workload, version: int, cached: int) -> int:
    """Host memory that publication needs besides the cache: learner/megatron/model/export.py says for what."""
    width, bases = WIDTH[work.published], int(work.deltas)
    if work.lora is not None:
        # The model without its adapters is kept, and each version is the model with them, made anew.
        made = work.width + (1 + bases) * width if work.merges else 0
        return (_COPIES + 1) * version + made * parameter_count(config) // work.world
    if (
        cached
    ):  # a copy is of all that the rank has, and the newest are cached; one more is made before one leaves the cache
        copies = (1 + max(0, _COPIES + bases - cached)) * version
    else:
        copies = (_COPIES + bases) * parameter_count(config) * width // work.world
    # Slices are brought together, but for experts, which nobody cuts; without them only queries, keys and values are cut out.
    cut_out = () if is_latent(config) else _QUERIES_KEYS_VALUES
    made_anew = sum(
        math.prod(shape)
        for name, shape in tensor_shapes(config).items()
        if (".experts." not in name if work.parallel.tensor > 1 else name.endswith(cut_out))
    )
    return copies + (1 + bases) * made_anew * width // work.world


def _adapter_parameters(config: Mapping[str, Any], work: Workload, stage: int) -> int:
    """A rank's parameters of adapters on a stage; 0 where the weights themselves are trained."""
    if work.lora is None:
        return 0
    layers, tensor, count = (
        set(stage_layers(config["num_hidden_layers"], work.parallel, stage)),
        work.parallel.tensor,
        0,
    )
    for name, (outputs, inputs) in adapted_tensors(config, work.lora).items():
        if int(name.split(".")[2]) in layers:
            # Of a projection that is split along its input, ranks have all of B; of the others, all of A.
            cut, whole = (inputs, outputs) if name.endswith(_SPLIT_INPUTS) else (outputs, inputs)
            count += work.lora.rank * (cut // tensor + whole)
    return count


def _update(shard: int, work: Workload) -> int:
    """What an optimizer's step needs for a moment: an fp32 copy of coarser gradients, and roots of the second moments."""
    copied = shard * _WIDE if WIDTH[work.gradients] < _WIDE else 0
    return copied + (shard * _ROOTS if work.device == "cuda" and not work.fused else 0)


def _cached(version_bytes: int, work: Workload) -> int:
    """Number of earlier versions that a rank caches: whole ones, and no more than there are."""
    limit = cache_limit(work.cache_bytes, work.max_staleness, version_bytes, work.cache_room)
    return min(limit // version_bytes, work.versions)


def _parameters(config: Mapping[str, Any], parallel: ParallelConfig, stage: int) -> tuple[int, int]:
    """A rank's parameters on a stage: those that tensor parallelism divides or copies, and those of its experts."""
    layers, last = set(stage_layers(config["num_hidden_layers"], parallel, stage)), stage == parallel.pipeline - 1
    dense = experts = 0
    for name, shape in tensor_shapes(config).items():
        count = math.prod(shape)
        if name.startswith("model.layers."):
            if int(name.split(".")[2]) not in layers:
                continue
        elif name == EMBEDDING:
            # A tied embedding is the output layer too, and the last stage has a copy of it.
            if stage and not (last and config.get("tie_word_embeddings")):
                continue
        elif not last:
            continue
        if name in (EMBEDDING, HEAD):
            count = vocabulary_rows(shape[0], parallel.tensor) * shape[1]
        if ".experts." in name:
            experts += count
        elif name.endswith(_WHOLE):
            dense += count
        else:
            dense += count // parallel.tensor
    return dense, experts // parallel.expert
