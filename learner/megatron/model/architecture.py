"""What the learner needs to know of a model, read from a Hugging Face ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.config import ParallelConfig
from learner.config.architectures import (
    AttentionBias,
    attention_bias,
    expert_count,
    has_qk_norm,
    head_dim,
    key_value_heads,
    layers_with_experts,
    layout_violations,
)
from learner.config.model_config import ModelError, read_config
from learner.config.model_types import MODEL_TYPES
from learner.config.rope import computed_rope
from learner.megatron.model.rotary import Rotary

__all__ = ["Architecture", "Mixture", "ModelError"]


@dataclass(frozen=True)
class Mixture:
    """Experts in place of the gated MLP; a softmax over all of them chooses a few for each token. No token is ever dropped.

    No auxiliary loss balances the experts (router_aux_loss_coef is not read): it is a product of means over a micro-batch, so
    the gradient of a batch would depend on how it is split into micro-batches.

    Attributes:
        experts: experts of each mixture layer.
        chosen: experts that each token is sent to.
        ffn: width of one expert's hidden layer.
        normalised: whether the weights of a token's experts are scaled to sum to 1; if not, they are the softmax's.
        layers: whether each layer, from the first to the last, is a mixture; the others are dense.
    """

    experts: int
    chosen: int
    ffn: int
    normalised: bool
    layers: tuple[bool, ...]


@dataclass(frozen=True)
class Architecture:
    """A decoder: grouped-query attention, rotary positions, RMSNorm, gated SiLU, dense or a mixture of experts.

    Attributes:
        path: the config.json that it was read from.
        config: content of that file.
        groups: key/value heads.
        vocab: token ids, and rows of the embedding without padding.
        tied: whether the output layer is the embedding.
        bias: which projections of the attention have a bias.
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
    rope: dict[str, Any]
    mixture: Mixture | None

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
            rope=computed_rope(values),
            mixture=_mixture(values) if MODEL_TYPES[values["model_type"]].mixture else None,
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
    def qk_norm(self) -> bool:
        """Whether each head's queries and keys pass through an RMSNorm."""
        return has_qk_norm(self.model_type)

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

    def rotary(self) -> Rotary:
        """The angles of the rotary positions."""
        return Rotary.of(self.rope, self.head_dim)


def _mixture(values: dict[str, Any]) -> Mixture:
    return Mixture(
        experts=expert_count(values),
        chosen=values["num_experts_per_tok"],
        ffn=values["moe_intermediate_size"],
        normalised=bool(values.get("norm_topk_prob")),
        layers=layers_with_experts(values),
    )
