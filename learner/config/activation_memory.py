"""Memory of a step's activations and of its output layer, by what the layers keep for the backward pass. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from learner.config.architectures import (
    expert_count,
    has_qk_norm,
    head_dim,
    key_value_heads,
    layers_with_experts,
    vocabulary_rows,
)
from learner.config.learner import ParallelConfig
from learner.config.workload import Workload, stage_layers

# Logits that exist at a time, and fp32 numbers beside each: learner/megatron/model/logprobs.py computes them chunk by chunk.
LOGITS_AT_A_TIME = {"cpu": 1 << 24, "cuda": 1 << 27}
_LOGIT_COPIES = 3
_GRADIENT = 4  # of the output layer's weight, a sum in fp32
# Times its width that a gated MLP keeps: both halves and the product. An expert's plain operators keep SiLU's output and a
# copy of the other half too, and the product before it is scaled. Counted by tests/bench/kept.py. Experts that are computed
# together keep both halves.
_GATED = {"dense": 3, "fused expert": 3, "plain expert": 6, "experts together": 2}


def activation_bytes(config: Mapping[str, Any], work: Workload, stage: int) -> int:
    """Activations of all micro-batches that a stage has under way, when each has the most tokens."""
    parallel, sparse = work.parallel, layers_with_experts(config)
    numbers = [
        _layer_numbers(config, work, sparse[layer])
        for layer in stage_layers(config["num_hidden_layers"], parallel, stage)
    ]
    ahead = parallel.pipeline - stage  # micro-batches of the schedule with one forward and one backward pass in turn
    batches = float(ahead)
    if parallel.virtual_pipeline > 1:
        chunks = 2 * (ahead - 1) + (parallel.virtual_pipeline - 1) * parallel.pipeline + 1
        batches = chunks / parallel.virtual_pipeline
    peak = 0.0
    if work.recompute == "full":
        peak = max(numbers)  # the layer that is computed again
        numbers = [config["hidden_size"] / work.sequence] * len(numbers)
    peak += _gathered_product(config, parallel)  # one layer's at a time
    kept = int((sum(numbers) * batches + peak) * work.width * work.tokens / parallel.context)
    return kept + (_together_bytes(config, work) if work.grouped and any(sparse) else 0)


def _together_bytes(config: Mapping[str, Any], work: Workload) -> int:
    """What the backward pass has for a moment of a layer whose experts are computed together.

    That is the gradients of the rank's experts, three matrices each, and on a CUDA device copies of two of them side by side.
    """
    matrices = 5 if work.device == "cuda" and work.dtype == "bfloat16" else 3
    own = expert_count(config) // work.parallel.expert
    return matrices * config["hidden_size"] * config["moe_intermediate_size"] * own * work.width


def _layer_numbers(config: Mapping[str, Any], work: Workload, sparse: bool) -> float:
    """Numbers that a layer keeps for its backward pass, for each of a rank's tokens."""
    parallel, hidden, width = work.parallel, config["hidden_size"], head_dim(config)
    queries, keys = config["num_attention_heads"] * width / parallel.tensor, _keys(config, parallel)
    normed = has_qk_norm(config["model_type"])
    # One attention call for the whole row needs bfloat16 and no context parallelism: learner/megatron/model/kernels.py.
    whole_row = work.uses_fused_kernels and work.dtype == "bfloat16" and parallel.context == 1
    if whole_row:
        attention = sum(_varlen_numbers(queries, keys, work, normed))
    else:
        attention = sum(_padded_numbers(queries, keys, work, _gathered_product(config, parallel), normed))
    # Both norms keep their input, and the linear layers behind them the norms' output, if it is not computed again.
    rebuilt = work.recompute == "selective"
    whole = (4 - rebuilt * (1 if sparse else 2)) * hidden / work.sequence
    if not sparse:
        gated = _GATED["dense"] - rebuilt
        return whole + attention + gated * config["intermediate_size"] / parallel.tensor
    chosen = min(config["num_experts_per_tok"], expert_count(config))
    # Each chosen expert: its input, its output, and as much as a dense layer within it.
    one = "fused expert" if work.uses_fused_kernels else "plain expert"
    gated = _GATED["experts together" if work.grouped else one]
    mixture = chosen * (2 * hidden + gated * config["moe_intermediate_size"]) / work.sequence
    return whole + attention + mixture


def _keys(config: Mapping[str, Any], parallel: ParallelConfig) -> float:
    """Width of a rank's keys, or of its values: a head at least, which several ranks have where there are too few."""
    return max(1, key_value_heads(config) / parallel.tensor) * head_dim(config)


def _gathered_product(config: Mapping[str, Any], parallel: ParallelConfig) -> int:
    """Width of all heads' queries, keys and values, which ranks gather where key/value heads are fewer than ranks; or 0."""
    groups = key_value_heads(config)
    return (config["num_attention_heads"] + 2 * groups) * head_dim(config) if groups < parallel.tensor else 0


def _varlen_numbers(queries: float, keys: float, work: Workload, normed: bool) -> Iterator[float]:
    """Numbers that attention keeps with one call for the whole row."""
    if normed:
        yield queries + keys  # the norms' input
    # The kernel's input, of which queries and keys can be computed again of the norms' input.
    yield keys if normed and work.recompute == "selective" else queries + 2 * keys
    yield queries  # its output, which is the input of the output projection


def _padded_numbers(queries: float, keys: float, work: Workload, gathered: int, normed: bool) -> Iterator[float]:
    """Numbers that attention keeps with padded calls; padding comes on top."""
    # What is kept of the product of queries, keys and values keeps all of it. The norms' input: both within the gathered
    # product, or else a copy of the queries, and keys within the product.
    if normed:
        yield gathered or queries + (queries + 2 * keys)
    # The kernel's input, in which each rank has the keys and values of all context ranks, and its output.
    yield 2 * queries + 2 * keys * work.parallel.context
    yield queries  # input of the output projection


def logit_bytes(config: Mapping[str, Any], work: Workload) -> int:
    """The output layer's peak: a chunk of logits, and the fp32 gradient of its weight with its copy in the model's dtype."""
    rows, width = work.tokens // work.parallel.context, work.width
    tensor, hidden = work.parallel.tensor, config["hidden_size"]
    columns = vocabulary_rows(config["vocab_size"], tensor) // tensor
    logits = min(rows * columns, LOGITS_AT_A_TIME[work.device])
    copy = 0 if width == _GRADIENT else width
    return logits * (width + 4 * _LOGIT_COPIES) + columns * hidden * (_GRADIENT + copy) + 2 * rows * hidden * width
