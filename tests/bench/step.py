"""`python -m tests.bench.step [ROUNDS] [--trl PYTHON]`: our optimizer step against transformers and TRL, CPU, fp32.

Same model, sequences, loss (ASymPO) and AdamW, three ways: ours packed; transformers with the sequences padded to one
batch, its usual way; transformers one sequence at a time. TRL's GRPO step on the same model and sequences runs in a process
of its own (tests/bench/trl_step.py), by the interpreter of a virtualenv that has it:
`python -m venv DIR && DIR/bin/pip install torch==2.13.0 transformers==5.19.0 trl==1.16.0`. Twice: with all activations kept,
as ours does it, and as TRL does it by default, with gradient checkpointing. Our gradient of its loss (opmd with tau = 0 is
on-policy GRPO with a token mean) must have the norm of its gradient. All take turns, so that what else the machine does hits
them alike; the figures are ratios of medians, tokens counted without padding. CPU seconds tell more than wall time where the
machine has other work (OMP_NUM_THREADS=1 then: threads that wait for each other spin).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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

Timed = Callable[[], tuple[float, float, float]]  # makes a step; returns seconds, CPU seconds, the gradient's norm


def timed(step: Callable[[], float]) -> Timed:
    def run() -> tuple[float, float, float]:
        began, busy = time.perf_counter(), time.process_time()
        norm = step()
        return time.perf_counter() - began, time.process_time() - busy, norm

    return run


def build(directory: Path) -> Trainer:
    config = subject.config(directory)
    ranks = subject.alone(config)
    return Trainer(load_policy(directory, ranks, config), config.optimizer, ranks)


def ours(trainer: Trainer, batch: list[Sequence]) -> Callable[[], float]:
    objective, packed = get(ObjectiveConfig(rho_max=None)), pack(batch, Layout())
    return lambda: trainer.train_step(packed, objective, subject.LR).grad_norm


def norm_of_grpo(trainer: Trainer, batch: list[Sequence]) -> float:
    """Norm of our gradient of the loss that TRL's step has; changes no weights."""
    tokens = sum(int(row.generated.sum()) for row in batch)
    weighted = [replace(row, weight=1 / tokens) for row in batch]
    return trainer.gradient(pack(weighted, Layout()), get(ObjectiveConfig(name="opmd", opmd_tau=0.0))).grad_norm


@contextlib.contextmanager
def trl(python: Path, model: Path, batch: list[Sequence], kept: str) -> Iterator[Timed]:
    """Starts TRL's trainer; each call of the result makes one of its steps."""
    rows = [
        {
            "prompt": row.tokens[~row.generated].tolist(),
            "completion": row.tokens[row.generated].tolist(),
            "advantage": row.advantage,
        }
        for row in batch
    ]
    torch.save(rows, model / "sequences.pt")
    script = Path(__file__).with_name("trl_step.py")
    command = [str(python), str(script), str(model), str(model / "sequences.pt"), str(subject.LR), kept]
    with (model / f"trl-{kept}.log").open("w+") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def step() -> tuple[float, float, float]:
            print(file=asked, flush=True)
            numbers = [float(word) for word in answers.readline().split()]
            if len(numbers) != 3:
                log.seek(0)
                raise RuntimeError(f"TRL's process ended:\n{log.read()[-4000:]}")
            return numbers[0], numbers[1], numbers[2]

        try:
            yield step
        finally:
            process.kill()
            process.wait()


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


def measured(ways: dict[str, Timed], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds and CPU seconds of each way's step."""
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, step in ways.items():
            taken[name].append(step())
    columns = {name: list(zip(*times, strict=True)) for name, times in taken.items()}
    return {name: (statistics.median(wall), statistics.median(busy)) for name, (wall, busy, _) in columns.items()}


def main(rounds: int, python: Path | None) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        path = Path(directory)
        size = subject.write(path)
        batch = subject.sequences()
        trainer = build(path)
        expected = norm_of_grpo(trainer, batch)
        ways = {
            "ours, packed": timed(ours(trainer, batch)),
            "transformers, padded": timed(plain(path, batch, len(batch))),
            "transformers, one by one": timed(plain(path, batch, 1)),
        }
        norms = {name: step()[2] for name, step in ways.items()}
        assert max(norms.values()) < 1.0001 * min(norms.values()), f"not the same gradient: {norms}"
        if python is None:
            print("TRL is not measured: no --trl PYTHON, the interpreter of a virtualenv that has it")
        for kept in ("keep", "recompute"):
            if python is None:
                break
            step = stack.enter_context(trl(python, path, batch, kept))
            norm = step()[2]
            assert abs(norm - expected) < 1e-4 * expected, f"not the same gradient: TRL's {norm}, ours {expected}"
            ways[f"TRL's GRPO, {kept}"] = step
        medians = measured(ways, rounds)
    tokens = sum(len(row.tokens) for row in batch)
    print(f"{size:.1f}M parameters, {tokens} tokens a step, {rounds} rounds, {torch.get_num_threads()} threads")
    mine, mine_busy = medians["ours, packed"]
    for name, (wall, busy) in medians.items():
        print(
            f"{name:26} {wall:6.2f} s  {tokens / wall:7.0f} tokens/s  ours is {wall / mine:.2f}x as fast; "
            f"CPU {busy:6.2f} s  {busy / mine_busy:.2f}x"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Our optimizer step against transformers' and TRL's.")
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--trl", type=Path, metavar="PYTHON", help="interpreter of a virtualenv that has TRL")
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.trl)
