"""A full ASymPO step of one process, packed: `python -m tests.bench.gpu [SHAPE]` (4b on a CUDA device, else tiny).

Random weights of Qwen3-4B's shape, bf16 with fp32 master weights and gradients, rows of 16k tokens, AdamW. Prints tokens/s,
the share of the matrix rate that this device was measured to have, the peak of device memory, and where the time goes.
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
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Batch, Sequence
from learner.config import LearnerConfig, ObjectiveConfig
from learner.megatron.layers import choose
from learner.megatron.model import load_policy
from learner.megatron.parallel import Ranks, start
from learner.megatron.step import Trainer
from learner.objectives import get

LR, WARM, STEPS = 1e-6, 2, 5
_KERNELS = (  # what a kernel's or an operator's name says it does; the first that fits
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("matrices", ("gemm", "cutlass", "nvjet", "mkldnn", "::mm", "addmm", "matmul", "linear")),
    ("optimizer", ("adam", "multi_tensor", "foreach")),
    ("copies", ("memcpy", "memset", "copy", "cat", "index")),
)


@dataclass(frozen=True)
class Shape:
    """A Qwen3's, and the row it is fed."""

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

    def write(self, directory: Path) -> None:
        """A Hugging Face directory with random weights."""
        config = transformers.Qwen3Config(
            vocab_size=self.vocab, hidden_size=self.hidden, intermediate_size=self.ffn, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, num_key_value_heads=self.groups, head_dim=self.head_dim,
            max_position_embeddings=self.longest, tie_word_embeddings=True,
        )  # fmt: skip
        torch.set_default_dtype(torch.bfloat16)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
        torch.set_default_dtype(torch.float32)

    def batch(self) -> Batch:
        """Prompts of an eighth, responses of one to seven eighths of the longest: uneven, as sampled ones are."""
        draw, made, used = random.Random(0), [], 0
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
        layer = 2 * self.hidden * width + 2 * self.hidden * self.groups * self.head_dim + 3 * self.hidden * self.ffn
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
    "tiny": Shape(4096, 256, 768, 4, 8, 4, 32, row=1024, rows=2, longest=256),
}


def matrix_rate(device: torch.device, size: int) -> float:
    """Floating-point operations per second of a square bf16 product, the best of ten."""
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
    """Shares of one step's device time."""
    cuda = ranks.device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if cuda else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity]) as profile:
        trainer.train_step(batch, get(ObjectiveConfig()), LR)
        _wait(ranks.device)
    spent: Counter[str] = Counter()
    for event in profile.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, words in _KERNELS if any(word in name for word in words)), "the rest")
        spent[kind] += event.self_device_time_total if cuda else event.self_cpu_time_total
    return {kind: value / spent.total() for kind, value in spent.most_common()}


def _config(directory: Path, recompute: str) -> LearnerConfig:
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
    given = {"model": str(directory), "queue": {"url": "redis://unused", "run": "bench"}, "dtype": "bfloat16"}
    return LearnerConfig.parse(given | unused | {"recompute": recompute}, source="bench")


def main(name: str = "", recompute: str = "selective") -> None:
    """``recompute`` as learner.recompute has it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    name = name or ("4b" if torch.cuda.is_available() else "tiny")
    shape = SHAPES[name]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        shape.write(Path(directory))
        config = _config(Path(directory), recompute)
        ranks = start(config.parallel, 0, 300)
        policy = load_policy(Path(directory), ranks, config)
    trainer, batch, objective = Trainer(policy, config.optimizer, ranks), shape.batch(), get(ObjectiveConfig())
    seconds = []
    for _ in range(WARM + STEPS):
        began = time.perf_counter()
        stats = trainer.train_step(batch, objective, LR)
        _wait(ranks.device)
        assert stats.skipped is None, stats.skipped
        seconds.append(time.perf_counter() - began)
    second, rate = statistics.median(seconds[WARM:]), matrix_rate(ranks.device, 8192 if name == "4b" else 1024)
    fill = batch.tokens / sum(micro_batch.tokens.shape[1] for micro_batch in batch.micro_batches)
    print(f"{name}, {ranks.device}, layers: {choose(config).name}, recompute: {recompute}, rows filled {fill:.3f}")
    print(f"{second:.3f} s a step (of {', '.join(f'{s:.3f}' for s in seconds)}), {batch.tokens / second:,.0f} tokens/s")
    print(f"{shape.work(batch) / second / rate:.3f} of the measured {rate / 1e12:.1f} TFLOP/s in bf16")
    if ranks.device.type == "cuda":
        print(f"peak device memory {torch.cuda.max_memory_allocated(ranks.device) / 2**30:.1f} GiB")
    print("time: " + ", ".join(f"{kind} {share:.0%}" for kind, share in _where(trainer, batch, ranks).items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
