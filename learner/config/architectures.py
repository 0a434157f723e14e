"""The model architectures that can be trained, and which parallel layouts each model allows. Needs no torch.

The learner, the launcher and `leeway doctor` check a model by these rules, and by those of model_types.py (the models that
there are), model_keys.py (what becomes of every key of config.json), model_config.py (its values) and model_weights.py (its
tensors).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from learner.config.latent import is_latent
from learner.config.learner import ParallelConfig
from learner.config.model_types import MODEL_TYPES, ExpertRouter
from learner.config.rope import rotated_share

AttentionBias = Literal["none", "qkv", "all"]  # projections with a bias; "all": those of "qkv" and the output


@dataclass(frozen=True)
class LayoutViolation:
    """A setting of [learner.parallel] that does not fit the model.

    Attributes:
        key: name of the setting, such as "tensor".
        value: number of ranks or model chunks that it asks for.
        text: a sentence that names the setting, its value, the model's property and the remedy.
    """

    key: str
    value: int
    text: str


def layout_violations(config: Mapping[str, Any], parallel: ParallelConfig) -> Iterator[LayoutViolation]:
    """Yields every setting of ``parallel`` that the model cannot be divided by.

    Args:
        config: content of the model's config.json.

    Raises:
        KeyError, TypeError, ValueError: ``config`` lacks a field of a causal language model, or it is no number.
    """
    heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
    yield from _divisible("tensor", parallel.tensor, "num_attention_heads", heads)
    if heads % parallel.tensor == 0:
        yield from _group_violations(config, parallel)
    yield from _vocabulary_violations(int(config["vocab_size"]), parallel)
    sparse = layers_with_experts(config)
    if not all(sparse) and config.get("intermediate_size") is not None:  # experts are never cut, dense layers are
        yield from _divisible("tensor", parallel.tensor, "intermediate_size", int(config["intermediate_size"]))
    yield from _pipeline_violations(layers, parallel)
    if any(sparse):
        yield from _mixture_violations(config, sparse, parallel)
        yield from _divisible("tensor", parallel.tensor, "width of the shared experts", shared_width(config))
    elif parallel.expert > 1:
        yield LayoutViolation(
            "expert",
            parallel.expert,
            f"learner.parallel.expert = {parallel.expert}: the model is dense and has no experts: set it to 1",
        )


def router_of(config: Mapping[str, Any]) -> ExpertRouter | None:
    """How the layers with experts choose among them; None for a dense model. A type that is not known: Qwen3-MoE's way."""
    known = MODEL_TYPES.get(config.get("model_type", ""))
    return known.router if known is not None else ExpertRouter()


def expert_count(config: Mapping[str, Any]) -> int:
    """Experts of each mixture layer, without shared ones; 0 for a dense model."""
    router = router_of(config)
    return int(next((config[key] for key in router.counts if config.get(key)), 0)) if router is not None else 0


def shared_width(config: Mapping[str, Any]) -> int:
    """Width of the hidden layer of the experts that every token is sent to, all of them together; 0 if there are none."""
    router = router_of(config)
    if router is None or router.shared is None:
        return 0
    return int(config.get(router.shared) or 0) * int(config["moe_intermediate_size"])


def balance_faults(config: Mapping[str, Any], rate: float) -> Iterator[str]:
    """Yields a sentence if the model's experts cannot be balanced by a correction bias.

    Args:
        config: content of the model's config.json, checked.
        rate: learner.optimizer.expert_bias_rate.
    """
    router, kind = router_of(config), config["model_type"]
    if not rate or (router is not None and router.corrected):
        return
    cause = "is dense and has no experts"
    if router is not None:
        cause = "has softmax routers, which have no correction bias: their scores both choose experts and weight them"
    yield f"learner.optimizer.expert_bias_rate = {rate:g}: model_type = {kind!r} {cause}: set it to 0"


def attention_bias(config: Mapping[str, Any]) -> AttentionBias:
    """Which projections of the attention have a bias."""
    bias = MODEL_TYPES[config["model_type"]].bias
    if bias == "configured":
        return "all" if config.get("attention_bias") else "none"
    if bias == "qkv configured":
        return "qkv" if config.get("attention_bias") else "none"
    return bias


def has_qk_norm(config: Mapping[str, Any]) -> bool:
    """Whether each head's queries and keys pass through an RMSNorm."""
    norm = MODEL_TYPES[config["model_type"]].qk_norm
    return bool(config.get("use_qk_norm")) if norm == "configured" else norm


def layers_with_experts(config: Mapping[str, Any]) -> tuple[bool, ...]:
    """Whether each layer, from the first to the last, is a mixture of experts. All false for a dense model."""
    layers = range(int(config["num_hidden_layers"]))
    router = router_of(config)
    if router is None or not expert_count(config):
        return tuple(False for _ in layers)
    if router.dense == "first":
        return tuple(layer >= int(config.get("first_k_dense_replace") or 0) for layer in layers)
    step, dense = int(config.get("decoder_sparse_step") or 1), config.get("mlp_only_layers") or []
    return tuple(layer not in dense and (layer + 1) % step == 0 for layer in layers)


def key_value_heads(config: Mapping[str, Any]) -> int:
    """Heads of the keys and values; as many as of the queries where config.json does not say."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def head_dim(config: Mapping[str, Any]) -> int:
    """Channels of a head's query and key, as transformers derives them: null means hidden_size / num_attention_heads."""
    if is_latent(config):
        return int(config["qk_nope_head_dim"]) + int(config["qk_rope_head_dim"])
    known = MODEL_TYPES.get(config.get("model_type", ""))
    return config.get("head_dim", known and known.head_dim) or config["hidden_size"] // config["num_attention_heads"]


def rotated_channels(config: Mapping[str, Any]) -> int:
    """Channels of a head that rotary positions turn: the first ones, or the last of attention with latents."""
    if is_latent(config):
        return int(config["qk_rope_head_dim"])
    known = MODEL_TYPES.get(config.get("model_type", ""))
    return int(head_dim(config) * rotated_share(config, known and known.rotated))


def vocabulary_rows(vocabulary: int, tensor: int) -> int:
    """Rows of the embedding and of the output layer over all ``tensor`` tensor-parallel ranks, which have equally many.

    Rows from ``vocabulary`` on are padding, all on the last rank: they are zero, no token reads them, they get no probability
    and no gradient, and no published version has them.
    """
    return -(-vocabulary // tensor) * tensor


def _group_violations(config: Mapping[str, Any], parallel: ParallelConfig) -> Iterator[LayoutViolation]:
    """Key/value heads are shared out, or with more ranks than heads each is computed on several ranks, equally many.

    In the second case Megatron cuts the joint product of queries, keys and values into equal parts, and gathers it again.
    """
    heads, groups, tensor = int(config["num_attention_heads"]), key_value_heads(config), parallel.tensor
    if groups % tensor == 0:
        return
    width = (heads + 2 * groups) * head_dim(config)
    shared = [ranks for ranks in range(1, heads + 1) if heads % ranks == 0 and not (groups % ranks and ranks % groups)]
    fits = [ranks for ranks in shared if groups % ranks == 0 or width % ranks == 0]
    if tensor in fits:
        return
    cause = f"neither divides the model's num_key_value_heads = {groups} nor is a multiple of it"
    if tensor in shared:
        cause = (
            f"is above the model's num_key_value_heads = {groups}, and does not divide the joint width of queries, keys and "
            f"values, ({heads} + 2 * {groups}) heads * {head_dim(config)} channels = {width}"
        )
    yield LayoutViolation("tensor", tensor, f"learner.parallel.tensor = {tensor} {cause}: set it to one of {fits}")


def chunk_layers(layers: int, parallel: ParallelConfig) -> list[range]:
    """Numbers of the layers of every model chunk, in the order of the layers.

    Chunk c is on stage c % pipeline. Where chunks cannot have equally many layers, some of those between the first and the
    last have one more: the first has the embedding besides, and the last the output layer.

    Args:
        layers: the model's, as many as chunks or more.
        parallel: the layout.
    """
    chunks = parallel.pipeline * parallel.virtual_pipeline
    size, more = divmod(layers, chunks)
    larger = [*range(1, chunks - 1), 0][:more]
    found, start = [], 0
    for chunk in range(chunks):
        stop = start + size + (chunk in larger)
        found.append(range(start, stop))
        start = stop
    return found


def _pipeline_violations(layers: int, parallel: ParallelConfig) -> Iterator[LayoutViolation]:
    chunks = parallel.pipeline * parallel.virtual_pipeline
    if layers >= chunks:
        return
    key = "pipeline" if layers < parallel.pipeline else "virtual_pipeline"
    most = layers if key == "pipeline" else layers // parallel.pipeline
    yield LayoutViolation(
        key,
        getattr(parallel, key),
        f"learner.parallel.{key} = {getattr(parallel, key)} leaves chunks of the model without any of its "
        f"num_hidden_layers = {layers}, as pipeline * virtual_pipeline = {chunks}: set it to {most} or less",
    )


def _vocabulary_violations(vocabulary: int, parallel: ParallelConfig) -> Iterator[LayoutViolation]:
    fits = [tensor for tensor in range(1, parallel.tensor + 1) if _every_rank_has_tokens(vocabulary, tensor)]
    if parallel.tensor not in fits:
        yield LayoutViolation(
            "tensor",
            parallel.tensor,
            f"learner.parallel.tensor = {parallel.tensor} would leave ranks without any of the model's vocab_size = "
            f"{vocabulary} token ids: set it to one of {fits}",
        )


def _every_rank_has_tokens(vocabulary: int, tensor: int) -> bool:
    """Whether less than one rank's share of the vocabulary's rows is padding."""
    rows = vocabulary_rows(vocabulary, tensor)
    return rows - vocabulary < rows // tensor


def _divisible(key: str, value: int, name: str, size: int) -> Iterator[LayoutViolation]:
    if size % value:
        divisors = [number for number in range(1, value) if size % number == 0]
        yield LayoutViolation(
            key,
            value,
            f"learner.parallel.{key} = {value} does not divide the model's {name} = {size}: set it to one of {divisors}",
        )


def _mixture_violations(
    config: Mapping[str, Any], sparse: tuple[bool, ...], parallel: ParallelConfig
) -> Iterator[LayoutViolation]:
    router = router_of(config)
    name = next(key for key in (router.counts if router else ()) if config.get(key))
    yield from _divisible("expert", parallel.expert, name, expert_count(config))
    if parallel.tensor > 1 and not parallel.sequence:
        yield LayoutViolation(
            "tensor",
            parallel.tensor,
            f"learner.parallel.tensor = {parallel.tensor} needs learner.parallel.sequence = true with a mixture of experts: "
            "else all tensor-parallel ranks would send the same tokens to the experts",
        )
    chunks = parallel.pipeline * parallel.virtual_pipeline
    if len(sparse) < chunks:
        return
    dense = [own for own in chunk_layers(len(sparse), parallel) if not any(sparse[layer] for layer in own)]
    if dense:
        key = "virtual_pipeline" if parallel.virtual_pipeline > 1 else "pipeline"
        yield LayoutViolation(
            key,
            getattr(parallel, key),
            f"learner.parallel.pipeline = {parallel.pipeline} and learner.parallel.virtual_pipeline = "
            f"{parallel.virtual_pipeline} make {chunks} chunks of the model, of which layers {dense[0][0]} to "
            f"{dense[0][-1]} are dense (mlp_only_layers, decoder_sparse_step, first_k_dense_replace): every chunk needs a "
            "layer with experts: lower pipeline or virtual_pipeline",
        )
