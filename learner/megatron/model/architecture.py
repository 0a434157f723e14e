"""What the learner needs to know of a model, read from a Hugging Face ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from learner.config import LoraConfig, ParallelConfig
from learner.config.adapters import lora_violations
from learner.config.architectures import (
    AttentionBias,
    attention_bias,
    balance_faults,
    expert_count,
    has_qk_norm,
    head_dim,
    key_value_heads,
    layers_with_experts,
    layout_violations,
    rotated_channels,
    router_of,
    shared_width,
)
from learner.config.latent import Latent, latent
from learner.config.model_config import ModelError, read_config
from learner.config.model_types import MODEL_TYPES
from learner.config.rope import computed_rope
from learner.config.routing import DENSE_REPLAY, routing_shape
from learner.megatron.model.rotary import Rotary
from runtime.routing_record import RoutingShape

__all__ = ["Architecture", "Mixture", "ModelError"]


@dataclass(frozen=True)
class Mixture:
    """Experts in place of the gated MLP; a router chooses a few of them for each token. No token is ever dropped.

    No auxiliary loss balances the experts (router_aux_loss_coef is not read): it is a product of means over a micro-batch, so
    the gradient of a batch would depend on how it is split into micro-batches.

    Attributes:
        experts: experts of each mixture layer.
        chosen: experts that each token is sent to.
        ffn: width of one expert's hidden layer.
        normalised: whether the weights of a token's experts are scaled to sum to 1; if not, they are the scores.
        layers: whether each layer, from the first to the last, is a mixture; the others are dense.
        score: "softmax" over all experts, or "sigmoid" of each one's logit.
        scaling: what the weights of a token's experts are multiplied by.
        shared: width of the hidden layer of the experts that every token is sent to, together; 0: none.
        groups: groups that the experts are divided into; 1: a token's experts are chosen among all.
        chosen_groups: groups that a token's experts are chosen in, those whose two best experts have the highest scores.
    """

    experts: int
    chosen: int
    ffn: int
    normalised: bool
    layers: tuple[bool, ...]
    score: Literal["softmax", "sigmoid"] = "softmax"
    scaling: float = 1.0
    shared: int = 0
    groups: int = 1
    chosen_groups: int = 1

    @property
    def corrected(self) -> bool:
        """Whether experts are chosen with a correction bias (learner.megatron.model.correction_bias)."""
        return self.score == "sigmoid"


@dataclass(frozen=True)
class Architecture:
    """A decoder: grouped-query or latent attention, rotary positions, RMSNorm, gated SiLU, dense or a mixture of experts.

    Attributes:
        path: the config.json that it was read from.
        config: content of that file.
        groups: key/value heads.
        head_dim: channels of a head's query and key.
        latent: sizes of attention with latents; None for grouped-query attention.
        vocab: token ids, and rows of the embedding without padding.
        tied: whether the output layer is the embedding.
        bias: which projections of the attention have a bias.
        qk_norm: whether each head's queries and keys pass through an RMSNorm.
        rotated: channels of a head that rotary positions turn.
        rope: rope_theta, rope_type and what that type needs, with all defaults filled in.
        mixture: None for a dense model.
    """

    path: Path
    config: dict[str, Any]
    model_type: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    groups: int
    head_dim: int
    vocab: int
    norm_eps: float
    max_positions: int
    tied: bool
    bias: AttentionBias
    qk_norm: bool
    rotated: int
    rope: dict[str, Any]
    mixture: Mixture | None
    latent: Latent | None

    @classmethod
    def read(cls, directory: Path) -> Architecture:
        """Reads ``directory``/config.json.

        Raises:
            ModelError: the directory or file is missing, the file is malformed, or the architecture is not supported.
        """
        values = read_config(directory)
        return cls(
            path=directory / "config.json",
            config=values,
            model_type=values["model_type"],
            layers=values["num_hidden_layers"],
            hidden=values["hidden_size"],
            ffn=values["intermediate_size"],
            heads=values["num_attention_heads"],
            groups=key_value_heads(values),
            head_dim=head_dim(values),
            vocab=values["vocab_size"],
            norm_eps=float(values["rms_norm_eps"]),
            max_positions=values["max_position_embeddings"],
            tied=bool(values.get("tie_word_embeddings")),
            bias=attention_bias(values),
            qk_norm=has_qk_norm(values),
            rotated=rotated_channels(values),
            rope=computed_rope(values),
            mixture=_mixture(values) if MODEL_TYPES[values["model_type"]].mixture else None,
            latent=latent(values),
        )

    @property
    def qkv_bias(self) -> bool:
        """Whether the query, key and value projections have a bias."""
        return self.bias != "none"

    @property
    def output_bias(self) -> bool:
        """Whether the attention's output projection has a bias."""
        return self.bias == "all"

    @property
    def routing(self) -> RoutingShape | None:
        """The mixture layers, as records of routing name them; None for a dense model."""
        return routing_shape(self.config)

    def check_balance(self, rate: float) -> None:
        """Checks that experts have a correction bias, if ``rate`` is to move it. Raises ModelError if they have none."""
        for fault in balance_faults(self.config, rate):
            raise ModelError(f"{self.path}: {fault}")

    def check_replay(self) -> None:
        """Checks that the model has a routing to replay. Raises ModelError if it is dense."""
        if self.routing is None:
            raise ModelError(f"{self.path}: {DENSE_REPLAY}")

    @property
    def widest_head(self) -> int:
        """Channels of a head where one kernel computes all of its attention: as many of keys as of values."""
        return self.head_dim if self.latent is None else max(self.head_dim, self.latent.value)

    def has_experts(self, layer: int) -> bool:
        """Whether layer number ``layer``, counted from 0 over the whole model, is a mixture of experts."""
        return self.mixture is not None and self.mixture.layers[layer]

    def check_layout(self, parallel: ParallelConfig) -> None:
        """Checks that the model can be divided as ``parallel`` asks.

        Raises:
            ModelError: it cannot; the message has a line for each setting that does not fit.
        """
        violations = [f"{self.path}: {violation.text}" for violation in layout_violations(self.config, parallel)]
        if violations:
            raise ModelError("\n".join(violations))

    def check_adapters(self, lora: LoraConfig | None, parallel: ParallelConfig) -> None:
        """Checks that the model can have adapters, and that they can be divided as ``parallel`` asks.

        Raises:
            ModelError: it cannot; the message has a line for each setting that does not fit.
        """
        violations = [f"{self.path}: {text}" for text in lora_violations(self.config, lora, parallel)]
        if violations:
            raise ModelError("\n".join(violations))

    def rotary(self) -> Rotary:
        """The angles of the rotary positions."""
        return Rotary.of(self.rope, self.rotated)


def _mixture(values: dict[str, Any]) -> Mixture:
    router = router_of(values)
    assert router is not None
    return Mixture(
        experts=expert_count(values),
        chosen=values["num_experts_per_tok"],
        ffn=values["moe_intermediate_size"],
        normalised=bool(values.get("norm_topk_prob")),
        layers=layers_with_experts(values),
        score=router.score,
        scaling=float(values["routed_scaling_factor"]) if router.scaled else 1.0,
        shared=shared_width(values),
        groups=values["n_group"] if router.grouped else 1,
        chosen_groups=values["topk_group"] if router.grouped else 1,
    )
