"""Our optimizer step against plain Hugging Face transformers, one process, CPU, fp32: `python -m tests.bench.step [ROUNDS]`.

Same model, sequences, loss (ASymPO) and AdamW, three ways: ours packed; transformers with the sequences padded to one
batch, its usual way; transformers one sequence at a time. The three take turns, so that what else the machine does hits
them alike; the figures are ratios of medians, tokens counted without padding. CPU seconds tell more than wall time where the
machine has other work (OMP_NUM_THREADS=1 then: threads that wait for each other spin).
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from learner.config import LearnerConfig, ObjectiveConfig
from learner.megatron.model import load_policy
from learner.megatron.parallel import start
from learner.megatron.step import Trainer
from learner.objectives import get

LR = 1e-5
SHAPE = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip


def sequences(count: int = 32) -> list[Sequence]:
    """Prompts of 32 tokens, responses of 16 to 224: uneven, as sampled ones are."""
    draw = random.Random(0)
    made = []
    for _ in range(count):
        length = 32 + draw.randint(16, 224)
        generated = torch.arange(length) >= 32
        made.append(Sequence(torch.randint(4096, (length,)), generated, draw.uniform(-1, 1), 1 / count))
    return made


def ours(directory: Path, batch: list[Sequence]) -> Callable[[], float]:
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}, "metrics_dir": "unused", "steps": 1}
    config = LearnerConfig.parse(
        {"model": str(directory), "queue": {"url": "redis://unused", "run": "bench"}, **unused}, source="bench"
    )
    ranks = start(config.parallel, 0, 60)
    trainer = Trainer(load_policy(directory, ranks, config), config.optimizer, ranks)
    objective = get(ObjectiveConfig(rho_max=None))
    packed = pack(batch, Layout(max_tokens=config.micro_batch_tokens))
    return lambda: trainer.train_step(packed, objective, LR).grad_norm


def plain(directory: Path, batch: list[Sequence], at_once: int) -> Callable[[], float]:
    """Right-padded: a causal model needs no mask for that."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.999), weight_decay=0.0)

    def step() -> float:
        optimizer.zero_grad()
        for first in range(0, len(batch), at_once):
            rows = batch[first : first + at_once]
            tokens = torch.nn.utils.rnn.pad_sequence([row.tokens for row in rows], batch_first=True)
            logp = torch.log_softmax(model(tokens).logits[:, :-1], -1).gather(2, tokens[:, 1:, None])[..., 0]
            torch.stack([_asympo(values, row) for values, row in zip(logp, rows, strict=True)]).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return norm.item()

    return step


def _asympo(logp: Tensor, row: Sequence) -> Tensor:
    scale = -logp[: len(row.tokens) - 1][row.generated[1:]].mean()
    return row.weight * row.advantage * scale / scale.detach().clamp(min=1e-3)


def main(rounds: int = 5) -> None:
    transformers.utils.logging.disable_progress_bar()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**SHAPE)).float()
        model.save_pretrained(path)
        batch = sequences()
        ways = {
            "ours, packed": ours(path, batch),
            "transformers, padded": plain(path, batch, len(batch)),
            "transformers, one by one": plain(path, batch, 1),
        }
        norms = {name: step() for name, step in ways.items()}
        assert max(norms.values()) < 1.0001 * min(norms.values()), f"not the same gradient: {norms}"
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, step in ways.items():
                began, busy = time.perf_counter(), time.process_time()
                step()
                seconds[name].append((time.perf_counter() - began, time.process_time() - busy))
    tokens = sum(len(row.tokens) for row in batch)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{size:.1f}M parameters, {tokens} tokens a step, {rounds} rounds, {torch.get_num_threads()} threads")
    medians = {
        name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in seconds.items()
    }
    mine, mine_busy = medians["ours, packed"]
    for name, (wall, busy) in medians.items():
        print(
            f"{name:26} {wall:6.2f} s  {tokens / wall:7.0f} tokens/s  ours is {wall / mine:.2f}x as fast; "
            f"CPU {busy:6.2f} s  {busy / mine_busy:.2f}x"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
