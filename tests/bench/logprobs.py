"""`python -m tests.bench.logprobs [ROWS] [VOCABULARY] [WIDTH]`: peak memory of log-probabilities at a large vocabulary.

Forward and backward over the output layer, entropy included, in a process of its own for each line. plain: the logits of all
rows and torch.log_softmax. whole: ours, all rows in one chunk. chunked: ours as it runs. The figure is the peak resident size
above what the inputs and their gradients need anyway.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch

_MIB = 1 << 20
_PAGE = resource.getpagesize()
_NEEDS = 6  # times the logits in fp32, at most, without chunks


def measure(kind: str, dtype: torch.dtype, rows: int, vocabulary: int, width: int) -> tuple[float, float]:
    """Measures peak MiB above the inputs and their gradients, and seconds."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width).to(dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width) / width**0.5).to(dtype).requires_grad_()
    hidden.grad, weight.grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    targets, temperature = torch.randint(vocabulary, (rows,)), torch.ones(rows)
    step = _plain if kind == "plain" else _ours(whole=kind == "whole")
    step(hidden[:1], weight, targets[:1], temperature[:1])  # what the libraries allocate once
    before = _resident()
    with _Peak() as peak:
        started = time.monotonic()
        step(hidden, weight, targets, temperature)
        seconds = time.monotonic() - started
    return (peak.value - before) / _MIB, seconds


def _plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor) -> None:
    logp = torch.log_softmax((hidden @ weight.T).float() / temperature[:, None], -1)
    entropy = -(logp.exp() * logp).sum(-1)
    (logp.gather(1, targets[:, None]).sum() + entropy.sum()).backward()


def _ours(whole: bool):
    from learner.megatron.model import logprobs

    if whole:
        logprobs._CHUNK = {"cpu": 1 << 60}

    def step(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: torch.Tensor) -> None:
        logp, entropy = logprobs.vocab_parallel_logprobs(hidden, weight, targets, temperature)
        (logp.sum() + entropy.sum()).backward()

    return step


class _Peak:
    """Largest resident size during a block, sampled every millisecond: the kernel's own peak cannot be reset."""

    def __enter__(self) -> _Peak:
        self.value = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.value = max(self.value, _resident())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _child(sender: Connection, kind: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    sender.send(measure(kind, dtype, *shape))


def main(rows: int = 4096, vocabulary: int = 152_064, width: int = 64) -> None:
    spawn = multiprocessing.get_context("spawn")
    logits = rows * vocabulary * 4 / _MIB
    print(
        f"{rows} loss tokens, vocabulary {vocabulary}, hidden {width}: [tokens, vocabulary] in fp32 is {logits:.0f} MiB"
    )
    for dtype in (torch.float32, torch.bfloat16):
        for kind in ("plain", "whole", "chunked"):
            if kind != "chunked" and _NEEDS * logits > psutil.virtual_memory().available / _MIB:
                print(f"{dtype!s:15} {kind:8} left out: it might need {_NEEDS * logits:.0f} MiB", flush=True)
                continue
            receiver, sender = spawn.Pipe(duplex=False)
            process = spawn.Process(target=_child, args=(sender, kind, dtype, (rows, vocabulary, width)))
            process.start()
            sender.close()
            peak, seconds = receiver.recv()
            process.join()
            share = f"{peak:8.0f} MiB  {peak / logits:5.2f} of the logits"
            print(f"{dtype!s:15} {kind:8} {share}  {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
