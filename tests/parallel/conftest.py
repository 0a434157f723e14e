"""Fixtures of the parallel tests: small models, their Hugging Face reference runs, and ranks that run cases."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from tests.parallel.ranks import run_cases
from tests.parallel.reference import EXPERTS, SIGMOID, correction_biases, on_disk

LR, CLIP, STEPS = 1e-3, 0.05, 6
BIAS_RATE = 0.05  # of the correction biases of sigmoid routers
SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
# Layers, vocabulary and key/value heads that neither pipeline nor tensor parallelism divides.
UNEVEN: dict[str, Any] = {"num_hidden_layers": 5, "vocab_size": 97, "num_key_value_heads": 1}
CONFIGS: dict[str, Callable[[], Any]] = {
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL | UNEVEN, tie_word_embeddings=False, head_dim=32),
    "llama": lambda: transformers.LlamaConfig(**SMALL, tie_word_embeddings=False, rope_parameters=LLAMA3),
    "moe": lambda: transformers.Qwen3MoeConfig(**SMALL, **EXPERTS, norm_topk_prob=True),
    "glm": lambda: transformers.Glm4MoeConfig(**SMALL, **SIGMOID, tie_word_embeddings=False),
}


@dataclass(frozen=True)
class Reference:
    """A model, and the results of plain Hugging Face training in one process; sigmoid routers are balanced by BIAS_RATE.

    Attributes:
        losses: losses of six steps.
        norm: norm of the first step's gradient before clipping.
        entropy: entropy in nats, summed over the loss tokens of the first step.
        initial: weights before the first step.
        gradient: gradient of the first step.
        trained: weights after three steps.
        experts: tokens that each expert was sent in the first step, by the number of its layer.
    """

    directory: Path
    sequences: Path
    losses: list[float]
    norm: float
    entropy: float
    initial: dict[str, Tensor]
    gradient: dict[str, Tensor]
    trained: dict[str, Tensor]
    experts: dict[str, list[int]]


@dataclass(frozen=True)
class Outcome:
    """The results of a case: values of rank 0, and the tensors that the ranks exported."""

    values: dict[str, Any]
    directory: Path
    name: str

    def by_rank(self, kind: str) -> list[dict[str, Tensor]]:
        """Tensors of each rank that exported any."""
        return [load_file(path) for path in sorted(self.directory.glob(f"{self.name}.{kind}.*.safetensors"))]

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Tensors that all ranks exported; a tensor exported twice is an error."""
        together: dict[str, Tensor] = {}
        for exported in self.by_rank(kind):
            assert not together.keys() & exported.keys()
            together |= exported
        return together


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reference]:
    """The reference of each model in CONFIGS."""
    root = tmp_path_factory.mktemp("models")
    rows = _sequences()
    (root / "sequences.json").write_text(json.dumps(rows))
    return {name: _reference(root / name, root / "sequences.json", rows) for name in CONFIGS}


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, list[dict[str, Any]]], dict[str, Outcome]]:
    """A function that runs cases on a number of ranks; it fails with the ranks' output if they fail."""

    def run(world: int, cases: list[dict[str, Any]]) -> dict[str, Outcome]:
        out = tmp_path_factory.mktemp(f"world{world}")
        specs = [{"lr": LR, "clip": CLIP, **case} for case in cases]
        run_cases(world, specs, out)
        return {c["name"]: Outcome(json.loads((out / f"{c['name']}.json").read_text()), out, c["name"]) for c in cases}

    return run


def _sequences() -> list[dict[str, Any]]:
    """Sequences of uneven lengths, one much longer than the others, with environment tokens and several temperatures."""
    draw = random.Random(1)
    rows = []
    for length in (11, 5, 23, 8, 8, 140, 3, 17, 30, 9, 12, 26):
        prompt = draw.randint(1, length - 1)
        generated = [False] * prompt + [draw.random() < 0.9 for _ in range(length - prompt)]
        generated[-1] = True
        rows.append(
            {
                "tokens": [draw.randrange(SMALL["vocab_size"]) for _ in range(length)],
                "generated": generated,
                "advantage": draw.uniform(-1, 1),
                "weight": 1 / 12,
                "temperature": draw.choice([0.7, 1.0, 1.3]),
            }
        )
    return rows


def _reference(directory: Path, sequences: Path, rows: list[dict[str, Any]]) -> Reference:
    torch.manual_seed(0)
    architecture = transformers.AutoModelForCausalLM.from_config(CONFIGS[directory.name]()).float()
    with torch.no_grad():  # as large as trained weights, norms and biases off their defaults
        for tensor in (*architecture.parameters(), *correction_biases(architecture).values()):
            tensor.add_(torch.randn_like(tensor) * 0.08)
    architecture.save_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses, initial, experts = [], _weights(model), _count_experts(model)
    gradient, trained, norm, entropy, first = {}, {}, 0.0, 0.0, {}
    for step in range(STEPS):
        optimizer.zero_grad()
        experts.clear()
        loss, step_entropy = _loss(model, rows)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            gradient = on_disk({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            entropy = step_entropy
            first = {layer: counts.tolist() for layer, counts in experts.items()}
        total = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        norm = total.item() if step == 0 else norm
        optimizer.step()
        _balance(model, experts)
        if step == 2:
            trained = _weights(model)
    return Reference(directory, sequences, losses, norm, entropy, initial, gradient, trained, first)


def _count_experts(model: Any) -> dict[str, Tensor]:
    """Tokens that each expert is sent, by the number of its layer; filled as the model runs, until it is cleared."""
    counts: dict[str, Tensor] = {}

    def count(layer: str, router: Any, output: tuple[Tensor, ...]) -> None:
        by = output[0].detach()
        if isinstance(router, Glm4MoeTopkRouter):
            by = by.sigmoid() + router.e_score_correction_bias
        chosen = by.topk(router.top_k).indices.flatten()
        counts[layer] = counts.get(layer, 0) + chosen.bincount(minlength=output[0].shape[-1])

    for name, module in model.named_modules():
        if isinstance(module, (Qwen3MoeTopKRouter, Glm4MoeTopkRouter)):
            layer = name.split(".")[2]
            module.register_forward_hook(lambda router, _, output, layer=layer: count(layer, router, cast(Any, output)))
    return counts


@torch.no_grad()
def _balance(model: Any, experts: dict[str, Tensor]) -> None:
    """Raises the bias of every expert with fewer tokens than the mean of its layer, and lowers those of the others."""
    for name, bias in correction_biases(model).items():
        load = experts[name.split(".")[2]].double()
        for expert, tokens in enumerate(load):
            if tokens != load.mean():
                bias[expert] += BIAS_RATE if tokens < load.mean() else -BIAS_RATE


def _loss(model: Any, rows: list[dict[str, Any]]) -> tuple[Tensor, float]:
    """Sum over responses of weight * advantage * mean negative log-probability, one sequence at a time, unpadded."""
    total, entropy = torch.zeros(()), 0.0
    for row in rows:
        tokens = torch.tensor(row["tokens"])
        logp = torch.log_softmax(model(tokens[None]).logits[0, :-1] / row["temperature"], -1)
        wanted = torch.tensor(row["generated"])[1:]
        nll = -logp.gather(1, tokens[1:, None])[:, 0][wanted]
        total = total + row["weight"] * row["advantage"] * nll.sum() / max(1, len(nll))
        entropy -= (logp.exp() * logp).sum(-1)[wanted].sum().item()
    return total, entropy


def _weights(model: Any) -> dict[str, Tensor]:
    return on_disk(dict(model.named_parameters()) | correction_biases(model))
