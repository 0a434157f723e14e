"""`python -m tests.bench.stall [STEPS] [HIDDEN]`: the share of a learner's step that is not the model. One rank, CPU.

The learner is the real one, started by torchrun, with a version published every step and a checkpoint every fifth; its groups
are in the queue before it starts. The shares are of the wall time between two rows of its metrics, so what nobody names is in
them too (``rest``: rows, loggers, reports to the queue). A hidden size of 384 makes 15.7M parameters, of 768 60M.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from learner.config import LearnerConfig, QueueConfig
from learner.queue import EmbeddedRedis, LearnerQueue
from leeway.v1 import rollout_pb2 as pb
from tests.bench.fill import fill

GROUPS, RESPONSES, PROMPT, LONGEST = 8, 8, 32, 64
FIRST = 3  # steps before the measured ones
LIMIT_S = 900
CHECKPOINT_EVERY = 5
VOCAB, HIDDEN = 4096, 384
PARTS = {
    "train_s": "forward, backward, optimizer", "wait_s": "waiting for groups that are there",
    "publish_s": "export, hand-over to publication and checkpoint", "rest": "rest",
}  # fmt: skip


def shape(hidden: int) -> dict[str, Any]:
    """A decoder's sizes: eight layers, three times as wide within a layer as between them."""
    return {
        "vocab_size": VOCAB, "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": hidden // 8, "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
    }  # fmt: skip


def group() -> pb.Group:
    """Makes a group of uneven responses, half of them right."""
    random = np.random.default_rng(0)
    responses = []
    for number in range(RESPONSES):
        length = int(random.integers(LONGEST // 4, LONGEST + 1))
        ids = random.integers(0, VOCAB, length, dtype="<i4")
        spans = [pb.Span(version=0, start=0, end=length)]
        responses.append(
            pb.Response(
                tokens=ids.tobytes(), reward=float(number % 2), spans=spans, finish_reason=pb.FINISH_REASON_STOP
            )
        )
    prompt = random.integers(0, VOCAB, PROMPT, dtype="<i4").tobytes()
    return pb.Group(prompt_id="bench/0", prompt_tokens=prompt, task="bench", temperature=1.0, responses=responses)


def learn(directory: Path, queue: QueueConfig, steps: int) -> list[dict[str, float]]:
    """Runs a learner for ``steps`` steps from a full queue; returns its step rows."""
    before = LearnerQueue.open(queue)
    before.begin(0, [])
    before.publish(pb.Policy(version=0, step=0, epoch=before.epoch, uri="file:///of/the/bench"))
    before.close()
    template = group()
    tokens = sum(len(response.tokens) // 4 for response in template.responses)
    asyncio.run(fill(queue, GROUPS * steps, tokens, template))
    settings = {
        "model": str(directory / "model"), "queue": queue.model_dump(mode="json"), "steps": steps, "groups_per_step": GROUPS,
        "max_staleness": 10_000, "metrics_dir": str(directory / "metrics"),
        "publish": {"dir": str(directory / "weights")},
        "checkpoint": {"dir": str(directory / "checkpoints"), "every": CHECKPOINT_EVERY},
    }  # fmt: skip
    LearnerConfig.parse(settings, "bench").write(directory / "learner.json")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "learner"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())}
    log = directory / "learner.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*command, str(directory / "learner.json")], env=environment, stdout=output, stderr=output, timeout=LIMIT_S
        )
    if done.returncode:
        raise RuntimeError(f"the learner ended with {done.returncode}:\n{log.read_text()[-6000:]}")
    rows = map(json.loads, (directory / "metrics/learner.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == "step"]


def shares(rows: list[dict[str, float]]) -> dict[str, float]:
    """Share of each part in the wall time after the first few steps."""
    wall = rows[-1]["time"] - rows[FIRST - 1]["time"]
    spent = {part: sum(row[part] for row in rows[FIRST:]) for part in PARTS if part != "rest"}
    return {part: spent.get(part, wall - sum(spent.values())) / wall for part in PARTS}


def stops(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Seconds for which each hand-over stops training, ascending: of a publication, and of one with a checkpoint."""
    found: dict[str, list[float]] = {"a publication": [], "a publication and a checkpoint": []}
    for row in rows[FIRST:]:
        saves = row["step"] % CHECKPOINT_EVERY == 0
        found["a publication and a checkpoint" if saves else "a publication"].append(row["publish_s"])
    return {what: sorted(times) for what, times in found.items()}


def main(steps: int = 24, hidden: int = HIDDEN) -> None:
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**shape(hidden))).float()
        model.save_pretrained(directory / "model")
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
        server = EmbeddedRedis.start(directory / "redis")
        try:
            rows = learn(directory, QueueConfig(url=server.url, run="bench"), steps)
        finally:
            server.stop()
    seconds = statistics.median(row["step_s"] for row in rows[FIRST:])
    print(
        f"{size:.1f}M parameters, {rows[-1]['trained_tokens']:.0f} tokens a step, {steps} steps, median {seconds:.2f} s"
    )
    found = shares(rows)
    for part, label in PARTS.items():
        print(f"{label:48} {found[part]:7.2%}")
    for what, times in stops(rows).items():
        median = statistics.median(times)
        print(f"{what} stops training for {median * 1e3:.1f} ms ({times[0] * 1e3:.1f} to {times[-1] * 1e3:.1f})")
    print(f"the learner has needed {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB at most")
    print(f"{'not the model':48} {1 - found['train_s']:7.2%}  (goal: below 5%)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
