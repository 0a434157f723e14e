"""Multi-head latent attention over packed rows (DeepSeek-V2, arXiv 2405.04434): short latents, from which heads are made.

A token's latents are made on every tensor-parallel rank, of whole weights: under sequence parallelism for this rank's tokens
only, which are gathered behind the norms. The queries, keys and values of the heads, and the output, are split by heads, as
grouped-query attention is. All heads share the rotated channels of the keys.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from learner.config.latent import LATENT_EPSILON, Latent
from learner.megatron.model.attention import PackedAttention, rotate
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rebuilt import rebuilding


class WholeLinear(torch.nn.Module):
    """A linear layer that every tensor-parallel rank has whole; under sequence parallelism each computes its own tokens.

    megatron sums its gradients over those ranks then, as it does those of norms. Without sequence parallelism every rank
    computes the same, and the layers behind it sum the gradient of its output.
    """

    def __init__(self, config: Any, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(outputs, inputs, dtype=config.params_dtype))
        self.bias = torch.nn.Parameter(torch.zeros(outputs, dtype=config.params_dtype)) if bias else None
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies [..., inputs] to [..., outputs]."""
        with rebuilding(x):
            return F.linear(x, self.weight, self.bias)


class LatentAttention(MegatronModule):
    """Causal self-attention of one layer with latents, in place of megatron's SelfAttention.

    Args:
        config: megatron's configuration of the model.
        sizes: the latents and heads.
        column: class of linear layers that are split along their output.
        row: class of linear layers that are split along their input.
        norm: class of RMSNorm.
        pg_collection: megatron's process groups.
    """

    def __init__(
        self, config: Any, sizes: Latent, column: Any, row: Any, norm: Any, pg_collection: Any = None, **_: Any
    ) -> None:
        super().__init__(config=config)
        group, hidden = pg_collection.tp, config.hidden_size
        self.tp_group = group  # read by megatron's checkpoints
        self._sizes = sizes
        self._heads = config.num_attention_heads // group.size()

        def split(kind: Any, inputs: int, outputs: int, **options: Any) -> Any:
            """A linear layer that tensor-parallel ranks have slices of."""
            plain: dict[str, Any] = {"config": config, "init_method": config.init_method, "is_expert": False}
            return kind(inputs, outputs, **plain, tp_group=group, **options)

        outward: dict[str, Any] = {"gather_output": False, "bias": False, "skip_bias_add": False}
        queries = config.num_attention_heads * sizes.key
        if sizes.query_rank is None:
            self.linear_q_proj = split(column, hidden, queries, tp_comm_buffer_name="q_proj", **outward)
        else:
            self.linear_q_down_proj = WholeLinear(config, hidden, sizes.query_rank, sizes.bias)
            self.q_latent_layernorm = norm(config=config, hidden_size=sizes.query_rank, eps=LATENT_EPSILON)
            self.linear_q_up_proj = split(column, sizes.query_rank, queries, tp_comm_buffer_name="q_up_proj", **outward)
        self.linear_kv_down_proj = WholeLinear(config, hidden, sizes.rank + sizes.rotated, sizes.bias)
        self.kv_latent_layernorm = norm(config=config, hidden_size=sizes.rank, eps=LATENT_EPSILON)
        both = config.num_attention_heads * (sizes.plain + sizes.value)
        self.linear_kv_up_proj = split(column, sizes.rank, both, tp_comm_buffer_name="kv_up_proj", **outward)
        self.core_attention = PackedAttention(config, softmax_scale=sizes.scale)
        inward: dict[str, Any] = {"input_is_parallel": True, "bias": sizes.bias, "skip_bias_add": True}
        attended = config.num_attention_heads * sizes.value
        self.linear_proj = split(row, attended, hidden, tp_comm_buffer_name="proj", **inward)

    def forward(self, hidden_states: Tensor, packed_seq_params: PackedRow, **_: Any) -> tuple[Tensor, Tensor | None]:
        """Attends within each sequence of the row.

        Args:
            hidden_states: [n, 1, hidden], of this rank's tokens, [n / tp, 1, hidden] under sequence parallelism.
            packed_seq_params: how the row is packed.

        Returns:
            The output, shaped as ``hidden_states``, and the bias that is to be added to it, [hidden] or None.
        """
        row = packed_seq_params
        latent, shared = self.linear_kv_down_proj(hidden_states).split([self._sizes.rank, self._sizes.rotated], -1)
        key, value = self._keys_and_values(self.kv_latent_layernorm(latent), self._for_all_heads(shared), row)
        attended = self.core_attention.attend(self._queries(hidden_states, row), key, value, row)
        return self.linear_proj(attended[:, None])

    def _queries(self, hidden: Tensor, row: PackedRow) -> Tensor:
        """Queries of this rank's heads, [n, heads, key]."""
        if self._sizes.query_rank is None:
            product, _ = self.linear_q_proj(hidden)
        else:
            product, _ = self.linear_q_up_proj(self.q_latent_layernorm(self.linear_q_down_proj(hidden)))
        plain, turning = self._by_head(product, self._sizes.key).split([self._sizes.plain, self._sizes.rotated], -1)
        return torch.cat([plain, self._turn(turning, row)], -1)

    def _keys_and_values(self, latent: Tensor, shared: Tensor, row: PackedRow) -> tuple[Tensor, Tensor]:
        """Keys [n, heads, key] and values [n, heads, value] of this rank's heads.

        Args:
            latent: [n or n / tp, 1, rank], behind its norm.
            shared: [n, 1, rotated], the channels that all heads share, not yet rotated.
            row: how the row is packed.
        """
        product, _ = self.linear_kv_up_proj(latent)
        sizes = [self._sizes.plain, self._sizes.value]
        plain, value = self._by_head(product, sum(sizes)).split(sizes, -1)
        turned = self._turn(shared, row).expand(-1, self._heads, -1)
        return torch.cat([plain, turned], -1), value

    def _for_all_heads(self, x: Tensor) -> Tensor:
        """The channels of all tokens that every rank's heads read; the backward pass sums the ranks' gradients of them."""
        if self.config.sequence_parallel:
            return tensor_parallel.gather_from_sequence_parallel_region(x)
        return tensor_parallel.copy_to_tensor_model_parallel_region(x)

    def _by_head(self, product: Tensor, width: int) -> Tensor:
        return product.view(-1, self._heads, width)

    def _turn(self, x: Tensor, row: PackedRow) -> Tensor:
        """Rotates [n, heads, rotated]. Neighbouring channels are brought to the halves first, and stay there."""
        if self._sizes.interleaved:
            x = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        return rotate(x, row.cos, row.sin, row.kernels.fused)
