"""Made-up records of experts, and their replay in transformers: written apart from the learner's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

ROUTERS = (Qwen3MoeTopKRouter, Glm4MoeTopkRouter, DeepseekV3TopkRouter)
START = 2  # position of the first token with a record; the last token of a sequence has none


def experts(tokens: Sequence[int], layers: int, count: int) -> list[list[list[int]]]:
    """Two of ``count`` experts for each token and mixture layer, by token id, position and layer: seldom a router's own."""
    made = []
    for position, token in enumerate(tokens):
        row = []
        for layer in range(layers):
            first = (token + 3 * position + 5 * layer) % count
            row.append([first, (first + 1 + (token + position) % (count - 1)) % count])
        made.append(row)
    return made


def replay(model: Any, rows: Sequence[Tensor]) -> Tensor:
    """Makes a model's routers send tokens where their records say.

    Args:
        model: with experts, two to a token.
        rows: token ids of the sequences, which the model will be given together, padded at their end.

    Returns:
        [rows, width] bool, true where a token has no record: padding too.
    """
    routers = [module for module in model.modules() if isinstance(module, ROUTERS)]
    count, width = routers[0].num_experts, max(map(len, rows))
    ids = torch.full((len(rows), width, len(routers), 2), -1)
    for row, tokens in enumerate(rows):
        made = torch.tensor(experts(tokens.tolist(), len(routers), count))
        ids[row, START : len(tokens) - 1] = made[START : len(tokens) - 1]
    for index, router in enumerate(routers):
        recorded = ids[:, :, index].flatten(0, 1)
        router.register_forward_hook(lambda module, _, out, recorded=recorded: _sent(module, out, recorded))
    return ids[:, :, 0, 0] < 0


def _sent(router: Any, output: Any, recorded: Tensor) -> tuple[Tensor, ...]:
    logits, _, own = output
    ids = torch.where(recorded < 0, own, recorded)
    if isinstance(router, Qwen3MoeTopKRouter):
        weights = logits.double().softmax(-1).gather(1, ids)
        return logits, weights / weights.sum(-1, keepdim=True) if router.norm_topk_prob else weights, ids
    weights = logits.sigmoid().gather(1, ids)
    if router.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights * router.routed_scaling_factor, ids
