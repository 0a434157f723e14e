"""The model and data that steps are measured on: a Qwen3 of 7M parameters and uneven sequences, on one rank."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

import torch
import transformers

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.types import Sequence
from learner.config import LearnerConfig
from learner.megatron.parallel import Ranks, start

LR = 1e-5
_SHAPE = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip


def sequences(count: int = 32) -> list[Sequence]:
    """Makes sequences of uneven length: prompts of 32 tokens, responses of 16 to 224."""
    draw = random.Random(0)
    made = []
    for _ in range(count):
        length = 32 + draw.randint(16, 224)
        generated = torch.arange(length) >= 32
        made.append(Sequence(torch.randint(4096, (length,)), generated, draw.uniform(-1, 1), 1 / count))
    return made


def write(directory: Path) -> float:
    """Writes the model, the same each time; returns its parameters in millions."""
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**_SHAPE)).float()
    model.save_pretrained(directory)
    return sum(p.numel() for p in model.parameters()) / 1e6


def config(directory: Path) -> LearnerConfig:
    """Settings of a learner that trains the model in ``directory`` and does nothing else."""
    unused = {"checkpoint": {"dir": "unused"}, "publish": {"dir": str(directory)}, "metrics_dir": "unused", "steps": 1}
    queue = {"url": "redis://unused", "run": "bench"}
    return LearnerConfig.parse({"model": str(directory), "queue": queue, **unused}, source="bench")


def alone(settings: LearnerConfig) -> Ranks:
    """Makes this process the only rank of its world."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return start(settings.parallel, 0, 60)
