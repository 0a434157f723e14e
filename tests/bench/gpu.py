"""A full ASymPO step of one process, packed: `python -m tests.bench.gpu [SHAPE] [RECOMPUTE] [plain|fused] [RANK]`.

Random weights of a Qwen3's shape (the largest that fits this device's memory; tiny without CUDA; "moe" is a slice of
Qwen3-30B-A3B whose experts are computed together, "moe-serial" the same with one MLP after another), bf16 with fp32 master
weights and gradients, rows of up to 16k tokens, AdamW, fused kernels (learner.fused_kernels) or plain operators; with a RANK
only adapters of that rank are trained (learner.lora). Every step has a batch of its own: a kernel that plans for new lengths
pays for it here as it would in a run. Prints tokens/s, the share of the matrix rate that this device was measured to have,
the peak of device memory, and where the time goes.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.config import LearnerConfig, ObjectiveConfig
from learner.megatron.model.build import load_policy
from learner.megatron.model.grouped_experts import GroupedExperts
from learner.megatron.model.layers import select_backend
from learner.megatron.parallel import Ranks, start
from learner.megatron.training.trainer import Trainer
from learner.objectives import get
from learner.process import cuda_environment

LR, WARM, STEPS = 1e-6, 2, 5
_KERNELS = (  # what a kernel's or an operator's name says it does; the first that fits
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("matrices", ("gemm", "cutlass", "nvjet", "mkldnn", "::mm", "addmm", "matmul", "linear")),
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("copies", ("memcpy", "memset", "copy", "cat", "index")),
    ("elementwise", ("elementwise", "triton", "norm", "reduce", "softmax", "::mul", "::add", "::div", "silu")),
)


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Qwen3, and length of the packed row it is fed."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    groups: int
    head_dim: int
    row: int  # tokens
    rows: int  # micro-batches a step
    longest: int  # tokens of a prompt and its response
    experts: int = 0  # of each layer, each as wide as ``ffn``; 0: dense
    chosen: int = 0  # for each token
    together: bool = True  # learner.grouped_experts

    def write(self, directory: Path, device: torch.device) -> None:
        """Writes a Hugging Face directory with random weights, drawn on ``device``: on a CPU 4B of them take a minute."""
        family: Any = transformers.Qwen3MoeConfig if self.experts else transformers.Qwen3Config
        experts = {"num_experts": self.experts, "num_experts_per_tok": self.chosen, "norm_topk_prob": True}
        config = family(
            vocab_size=self.vocab, hidden_size=self.hidden, intermediate_size=self.ffn, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.groups, head_dim=self.head_dim,
            max_position_embeddings=self.longest, tie_word_embeddings=True,
            **(experts | {"moe_intermediate_size": self.ffn} if self.experts else {}),
        )  # fmt: skip
        torch.set_default_dtype(torch.bfloat16)
        with device:
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        torch.set_default_dtype(torch.float32)

    def batch(self, seed: int) -> Batch:
        """Makes a batch of uneven sequences: prompts of an eighth, responses of one to seven eighths of the longest."""
        draw, made, used = random.Random(seed), [], 0
        prompt = self.longest // 8
        while used < self.row * self.rows * 0.97:
            length = min(prompt + draw.randint(prompt, 7 * prompt), max(2 * prompt, self.row * self.rows - used))
            tokens = torch.randint(self.vocab, (length,))
            made.append(Sequence(tokens, torch.arange(length) >= prompt, draw.uniform(-1, 1), 1.0))
            used += length
        return pack(made, Layout(max_tokens=self.row))

    def work(self, batch: Batch) -> float:
        """Floating-point operations of a step that the model asks for, forward and backward; a multiplication and an addition
        are two. Recomputation is not counted, nor is the output layer where no token carries loss."""
        width = self.heads * self.head_dim
        wide = self.ffn * max(1, self.chosen)
        layer = 2 * self.hidden * width + 2 * self.hidden * self.groups * self.head_dim + 3 * self.hidden * wide
        total = 0.0
        for micro_batch in batch.micro_batches:
            lengths = micro_batch.cu_seqlens.diff().double()
            total += (
                6
                * self.layers
                * (layer * batch.tokens / len(batch.micro_batches) + width * float(lengths.square().sum()))
            )
            total += 6 * self.hidden * self.vocab * len(micro_batch.loss_index)
        return total


SHAPES = {
    "4b": Shape(151_936, 2560, 9728, 36, 32, 8, 128, row=16_384, rows=2, longest=4096),
    "1.7b": Shape(151_936, 2048, 6144, 28, 16, 8, 128, row=16_384, rows=2, longest=4096),
    "0.6b": Shape(151_936, 1024, 3072, 28, 16, 8, 128, row=16_384, rows=2, longest=4096),
    "tiny": Shape(4096, 256, 768, 4, 8, 4, 32, row=1024, rows=2, longest=256),
    "moe": Shape(151_936, 2048, 768, 4, 32, 4, 128, row=16_384, rows=2, longest=4096, experts=128, chosen=8),
    "moe-tiny": Shape(4096, 256, 96, 2, 8, 4, 32, row=1024, rows=2, longest=256, experts=128, chosen=8),
}
SHAPES |= {f"{name}-serial": replace(SHAPES[name], together=False) for name in ("moe", "moe-tiny")}
# Device memory that a step of the shape was counted to need with recompute = "full", GiB.
_NEEDS = {"4b": 90, "1.7b": 45, "0.6b": 20}


def largest_that_fits(device: torch.device) -> str:
    """Name of the largest shape whose step fits the free memory of ``device``; "tiny" without CUDA."""
    if device.type != "cuda":
        return "tiny"
    free = torch.cuda.mem_get_info(device)[0] / 2**30
    return next((name for name, needed in _NEEDS.items() if needed <= free), "tiny")


def matrix_rate(device: torch.device, size: int) -> float:
    """Measures floating-point operations per second of a square bf16 product, the best of ten."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(10):
        _wait(device)
        began = time.perf_counter()
        torch.mm(a, b)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _where(trainer: Trainer, batch: Batch, ranks: Ranks) -> dict[str, float]:
    """Seconds of one step that this device is busy, by kind of kernel, the longest first."""
    cuda = ranks.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        trainer.train_step(batch, get(ObjectiveConfig()), LR)
        _wait(ranks.device)
    spent: Counter[str] = Counter()
    for event in profile.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, words in _KERNELS if any(word in name for word in words)), "the rest")
        spent[kind] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
    return dict(spent.most_common())


def _config(directory: Path, recompute: str, fused: bool, together: bool, rank: int) -> LearnerConfig:
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
    given = {"model": str(directory), "queue": {"url": "redis://unused", "run": "bench"}, "dtype": "bfloat16"}
    chosen: dict[str, Any] = {"recompute": recompute, "fused_kernels": fused, "grouped_experts": together}
    chosen |= {"lora": {"rank": rank, "alpha": 2 * rank}} if rank else {}
    return LearnerConfig.parse(given | unused | chosen, source="bench")


def main(name: str = "", recompute: str = "full", kernels: str = "fused", rank: str = "0") -> None:
    """Measures and prints. ``name``: one of SHAPES; ``recompute``: as learner.recompute; ``kernels``: "fused" or "plain";
    ``rank``: of adapters, 0 for full weights."""
    cuda_environment.prepare(1)  # torch reads it when it allocates device memory for the first time
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = name or largest_that_fits(device)
    shape = SHAPES[name]
    torch.manual_seed(0)
    rate = matrix_rate(device, 8192 if device.type == "cuda" else 1024)
    with tempfile.TemporaryDirectory() as directory:
        shape.write(Path(directory), device)
        config = _config(Path(directory), recompute, kernels == "fused", shape.together, int(rank))
        ranks = start(config.parallel, 0, 300)
        policy = load_policy(Path(directory), ranks, config)
    trainer, objective = Trainer(policy, config.optimizer, ranks), get(ObjectiveConfig())
    batches = [shape.batch(seed) for seed in range(WARM + STEPS)]
    seconds = []
    for batch in batches:
        began = time.perf_counter()
        stats = trainer.train_step(batch, objective, LR)
        _wait(device)
        assert stats.skipped is None, stats.skipped
        seconds.append(time.perf_counter() - began)
    second, last = statistics.median(seconds[WARM:]), batches[-1]
    tokens = statistics.mean(batch.tokens for batch in batches[WARM:])
    fill = last.tokens / sum(micro_batch.tokens.shape[1] for micro_batch in last.micro_batches)
    layers = f"{select_backend(config).name}, {kernels} kernels"
    if any(isinstance(module, GroupedExperts) for module in policy.models[0].modules()):
        layers += ", experts together"
    layers += f", adapters of rank {rank} alone are trained" if int(rank) else ""
    print(f"{name}, {device}, layers: {layers}, recompute: {recompute}, rows filled {fill:.3f}")
    print(f"{second:.3f} s a step (of {', '.join(f'{s:.3f}' for s in seconds)}), {tokens / second:,.0f} tokens/s")
    print(f"{shape.work(last) / second / rate:.3f} of the measured {rate / 1e12:.1f} TFLOP/s in bf16")
    if device.type == "cuda":
        print(f"peak device memory {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    try:
        where = _where(trainer, last, ranks)
    except torch.OutOfMemoryError:
        print("where the time goes is not known: no device memory is left for the profiler")
        return
    busy = sum(where.values())
    print(f"where the time goes: {device} is busy for {busy:.3f} of {second:.3f} s")
    for kind, spent in where.items():
        print(f"  {kind:12} {spent:7.3f} s {spent / busy:4.0%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
