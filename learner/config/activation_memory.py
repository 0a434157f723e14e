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
    shared_width,
    vocabulary_rows,
)
from learner.config.latent import Latent, latent
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
    """Numbers that a layer keeps for its backward pass, for each of a rank's tokens.

    With adapters it is a little less than this: what a frozen layer without an adapter gets is not kept.
    """
    return _weight_numbers(config, work, sparse) + (work.lora.rank * len(work.lora.targets) if work.lora else 0)


def _weight_numbers(config: Mapping[str, Any], work: Workload, sparse: bool) -> float:
    parallel, hidden, width = work.parallel, config["hidden_size"], head_dim(config)
    queries, keys = config["num_attention_heads"] * width / parallel.tensor, _keys(config, parallel)
    normed = has_qk_norm(config)
    # One attention call for the whole row needs bfloat16 and no context parallelism: learner/megatron/model/kernels.py.
    whole_row = work.uses_fused_kernels and work.dtype == "bfloat16" and parallel.context == 1
    if (sizes := latent(config)) is not None:
        heads = config["num_attention_heads"] / parallel.tensor
        attention = sum(_latent_numbers(sizes, heads, work, whole_row))
    elif whole_row:
        attention = sum(_varlen_numbers(queries, keys, work, normed))
    else:
        attention = sum(_padded_numbers(queries, keys, work, _gathered_product(config, parallel), normed))
    # Both norms keep their input, and the linear layers behind them the norms' output, if it is not computed again.
    rebuilt = work.recompute == "selective"
    whole = (4 - rebuilt * (1 if sparse else 2)) * hidden / work.sequence
    gated = _GATED["dense"] - rebuilt
    if not sparse:
        return whole + attention + gated * config["intermediate_size"] / parallel.tensor
    shared = gated * shared_width(config) / parallel.tensor
    chosen = min(config["num_experts_per_tok"], expert_count(config))
    # Each chosen expert: its input, its output, and as much as a dense layer within it.
    one = "fused expert" if work.uses_fused_kernels else "plain expert"
    gated = _GATED["experts together" if work.grouped else one]
    mixture = chosen * (2 * hidden + gated * config["moe_intermediate_size"]) / work.sequence
    return whole + attention + mixture + shared


def _keys(config: Mapping[str, Any], parallel: ParallelConfig) -> float:
    """Width of a rank's keys, or of its values: a head at least, which several ranks have where there are too few."""
    return max(1, key_value_heads(config) / parallel.tensor) * head_dim(config)


def _gathered_product(config: Mapping[str, Any], parallel: ParallelConfig) -> int:
    """Width of all heads' queries, keys and values, which ranks gather where key/value heads are fewer than ranks; or 0."""
    groups = key_value_heads(config)
    return (config["num_attention_heads"] + 2 * groups) * head_dim(config) if groups < parallel.tensor else 0


def _latent_numbers(sizes: Latent, heads: float, work: Workload, whole_row: bool) -> Iterator[float]:
    """Numbers that attention with latents keeps."""
    # The norms' input, with the keys' rotated channels behind it, and their output, if it is not computed again.
    times = 1 if work.recompute == "selective" else 2
    yield (times * (sizes.rank + (sizes.query_rank or 0)) + sizes.rotated) / work.sequence
    # The kernel's input, in which each rank has the keys and values of all context ranks, and its output: of one width.
    widest = heads * max(sizes.key, sizes.value)
    yield (2 + 2 * work.parallel.context) * widest
    if not whole_row or sizes.key > sizes.value:  # else it is the kernel's output as it is
        yield heads * sizes.value  # input of the output projection


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
    if work.lora is not None:  # the output layer is frozen
        return logits * (width + 4 * _LOGIT_COPIES) + 2 * rows * hidden * width
    return logits * (width + 4 * _LOGIT_COPIES) + columns * hidden * (_GRADIENT + copy) + 2 * rows * hidden * width
