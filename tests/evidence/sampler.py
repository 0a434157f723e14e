"""A batched sampler with a key-value cache for the demo's model family, in plain torch: the fleet of one process.

It reads published weights by their Hugging Face names and computes what the learner computes, in float32: RMSNorm, rotary
positions, grouped attention with normalised queries and keys, the gated MLP. Responses of all prompts are decoded together;
keys and values of a prompt are computed once for its whole group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rollout.data.demo_model import EOS, PAD, DemoShape

_NORM_EPS = 1e-6
_ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class Sampled:
    """Responses of one call, group after group.

    Attributes:
        tokens: token ids of each response, its end token included where it came.
        logp: [responses, most tokens] float32, log-probability of each token; 0 behind the last one.
        entropy: mean entropy of the distributions that tokens were drawn from, nats.
    """

    tokens: list[list[int]]
    logp: Tensor
    entropy: float


@dataclass(frozen=True)
class _Layer:
    qkv: Tensor  # [(heads + 2 kv_heads) * head_dim, hidden], scaled by the norm before it
    q_norm: Tensor
    k_norm: Tensor
    out: Tensor
    up: Tensor  # [2 ffn, hidden]: gate, then up; scaled by the norm before it
    down: Tensor


class Sampler:
    """Samples responses from one version's weights.

    Args:
        weights: the tensors of a version by their Hugging Face names, any floating dtype.
        shape: sizes of the model.
    """

    def __init__(self, weights: Mapping[str, Tensor], shape: DemoShape) -> None:
        wide = {name: tensor.detach().float() for name, tensor in weights.items()}
        self._shape = shape
        self._embedding = wide["model.embed_tokens.weight"]
        self._head = wide["lm_head.weight"] * wide["model.norm.weight"]
        self._layers = [_layer(wide, f"model.layers.{index}.") for index in range(shape.layers)]
        frequencies = _ROPE_BASE ** -(torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
        angles = torch.arange(shape.max_positions).float()[:, None] * frequencies
        self._cos, self._sin = torch.cat([angles.cos()] * 2, 1), torch.cat([-angles.sin(), angles.sin()], 1)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        responses: int,
        most_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> Sampled:
        """Draws ``responses`` responses to each prompt, of at most ``most_tokens`` tokens; temperature 0 is greedy."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        width = int(lengths.max())
        padded = torch.tensor([[*prompt, *[PAD] * (width - len(prompt))] for prompt in prompts])
        caches = [self._empty(len(prompts), width) for _ in self._layers]
        hidden = self._run(self._embedding[padded], torch.arange(width).expand(len(prompts), -1), caches)
        last = hidden[torch.arange(len(prompts)), lengths - 1].repeat_interleave(responses, 0)
        caches = [self._widened(cache, responses, most_tokens) for cache in caches]
        position = lengths.repeat_interleave(responses)
        rows = len(position)
        tokens, logp = torch.full((rows, most_tokens), PAD), torch.zeros(rows, most_tokens)
        live, entropy, drawn = torch.ones(rows, dtype=torch.bool), 0.0, 0
        for index in range(most_tokens):
            scores = torch.log_softmax(F.linear(last, self._head) / (temperature or 1.0), -1)
            chances = scores.exp()
            token = scores.argmax(-1) if temperature == 0 else torch.multinomial(chances, 1, generator=generator)[:, 0]
            tokens[:, index] = token.where(live, PAD)
            logp[:, index] = scores.gather(1, token[:, None])[:, 0].where(live, 0.0)
            entropy += float((-(chances * scores).sum(1)).where(live, 0.0).sum())
            drawn += int(live.sum())
            live &= token != EOS
            if index + 1 == most_tokens or not live.any():
                break
            last = self._run(self._embedding[token][:, None], (position + index)[:, None], caches)[:, 0]
        return Sampled([_until_end(row) for row in tokens.tolist()], logp, entropy / max(1, drawn))

    def _empty(self, rows: int, width: int) -> tuple[Tensor, Tensor]:
        size = (rows, self._shape.kv_heads, width, self._shape.head_dim)
        return torch.zeros(size), torch.zeros(size)

    def _widened(self, cache: tuple[Tensor, Tensor], responses: int, more: int) -> tuple[Tensor, Tensor]:
        """Gives every response of a group a copy of its prompt's keys and values, with room for ``more`` tokens."""
        keys, values = (F.pad(part.repeat_interleave(responses, 0), (0, 0, 0, more)) for part in cache)
        return keys, values

    def _run(self, hidden: Tensor, positions: Tensor, caches: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Runs tokens [rows, n, hidden] at ``positions`` [rows, n]; writes their keys and values into the caches.

        Returns:
            Hidden states [rows, n, hidden], normalised but for the last norm's weight, which is in the head.
        """
        shape = self._shape
        rows, count, _ = hidden.shape
        cos, sin = self._cos[positions][:, :, None], self._sin[positions][:, :, None]
        row = torch.arange(rows)[:, None]
        seen = torch.arange(caches[0][0].shape[2]) <= positions[:, None, :, None]  # [rows, 1, n, cached]
        for layer, (keys, values) in zip(self._layers, caches, strict=True):
            mixed = F.linear(_normed(hidden), layer.qkv).view(rows, count, -1, shape.head_dim)
            query, key, value = mixed.split([shape.heads, shape.kv_heads, shape.kv_heads], 2)
            keys[row, :, positions] = _rotated(_normed(key) * layer.k_norm, cos, sin)
            values[row, :, positions] = value
            query = _rotated(_normed(query) * layer.q_norm, cos, sin).transpose(1, 2)
            attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, enable_gqa=True)
            hidden = hidden + F.linear(attended.transpose(1, 2).reshape(rows, count, -1), layer.out)
            gate, up = F.linear(_normed(hidden), layer.up).chunk(2, -1)
            hidden = hidden + F.linear(F.silu(gate) * up, layer.down)
        return _normed(hidden)


def _layer(weights: Mapping[str, Tensor], prefix: str) -> _Layer:
    qkv = torch.cat([weights[f"{prefix}self_attn.{part}_proj.weight"] for part in "qkv"])
    up = torch.cat([weights[f"{prefix}mlp.{part}_proj.weight"] for part in ("gate", "up")])
    return _Layer(
        qkv=qkv * weights[prefix + "input_layernorm.weight"],
        q_norm=weights[prefix + "self_attn.q_norm.weight"],
        k_norm=weights[prefix + "self_attn.k_norm.weight"],
        out=weights[prefix + "self_attn.o_proj.weight"],
        up=up * weights[prefix + "post_attention_layernorm.weight"],
        down=weights[prefix + "mlp.down_proj.weight"],
    )


def _normed(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _NORM_EPS)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _until_end(row: list[int]) -> list[int]:
    """Cuts a row of token ids behind its end token; one without an end token reached the limit and stays whole."""
    return row[: row.index(EOS) + 1] if EOS in row else row
