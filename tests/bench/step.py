"""`python -m tests.bench.step [ROUNDS]`: our optimizer step against plain transformers, one process, CPU, fp32.

Same model, sequences, loss (ASymPO) and AdamW, three ways: ours packed; transformers with the sequences padded to one
batch, its usual way; transformers one sequence at a time. The three take turns, so that what else the machine does hits
them alike; the figures are ratios of medians, tokens counted without padding. CPU seconds tell more than wall time where the
machine has other work (OMP_NUM_THREADS=1 then: threads that wait for each other spin).
"""

from __future__ import annotations

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
from learner.config import ObjectiveConfig
from learner.megatron.model.build import load_policy
from learner.megatron.training.trainer import Trainer
from learner.objectives import get
from tests.bench import subject


def ours(directory: Path, batch: list[Sequence]) -> Callable[[], float]:
    config = subject.config(directory)
    ranks = subject.alone(config)
    trainer = Trainer(load_policy(directory, ranks, config), config.optimizer, ranks)
    objective = get(ObjectiveConfig(rho_max=None))
    packed = pack(batch, Layout(max_tokens=config.micro_batch_tokens))
    return lambda: trainer.train_step(packed, objective, subject.LR).grad_norm


def plain(directory: Path, batch: list[Sequence], at_once: int) -> Callable[[], float]:
    """Runs transformers on right-padded sequences; a causal model needs no mask for that."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=subject.LR, betas=(0.9, 0.999), weight_decay=0.0)

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
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        size = subject.write(path)
        batch = subject.sequences()
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
