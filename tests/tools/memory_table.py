"""The table of sizes in deploy/README.md: `python -m tests.tools.memory_table [--write]`.

It is made by learner/config/memory.py, by which `leeway doctor` judges a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from learner.config import CheckpointConfig, LoraConfig, ParallelConfig, PublishConfig
from learner.config.memory import RankMemory, adapter_count, checkpoint_bytes, memory_by_stage, parameter_count
from learner.config.workload import Workload

FILE = Path(__file__).parents[2] / "deploy" / "README.md"
BEGIN, END = "<!-- sizes: made by `python -m tests.tools.memory_table --write` -->", "<!-- end of sizes -->"
GPUS_A_NODE = 8
_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
}
B8 = _LLAMA | {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
B70 = _LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}


@dataclass(frozen=True)
class Column:
    """One model in one layout, bfloat16, rows of 16,384 tokens."""

    title: str
    config: Mapping[str, Any]
    work: Workload

    def rank(self, recompute: str) -> RankMemory:
        """The rank that needs the most."""
        stages = memory_by_stage(self.config, replace(self.work, recompute=recompute))
        return max(stages, key=lambda stage: stage.model)

    def adapted(self) -> Column:
        """This column with adapters in place of the weights trained."""
        return replace(self, work=replace(self.work, lora=_LORA))

    def node(self) -> int:
        """Host memory that the ranks of one node need, for a checkpoint and a version."""
        return min(GPUS_A_NODE, self.work.world) * max(stage.host for stage in memory_by_stage(self.config, self.work))


COLUMNS = [
    Column(title, config, Workload(ParallelConfig(tensor=tensor, pipeline=pipeline, sequence=True), world))
    for title, config, tensor, pipeline, world in (
        ("8B, 4 GPUs: TP4", B8, 4, 1, 4),
        ("70B, 16: TP8 PP2", B70, 8, 2, 16),
        ("70B, 32: TP8 PP4", B70, 8, 4, 32),
        ("70B, 32: TP8 PP2 DP2", B70, 8, 2, 32),
    )
]
_LORA = LoraConfig(rank=32, alpha=64)
_ADAPTED = "`[learner.lora]` of rank 32"
_CHECKPOINTS = CheckpointConfig.model_fields["keep"].default + 2
_VERSIONS = PublishConfig.model_fields["keep"].default + 2 + 1
_ROWS: list[tuple[str, Callable[[Column], float]]] = [
    ("weights, a version: 2 P", lambda column: 2 * parameter_count(column.config)),
    ("GPU: weights", lambda column: column.rank("full").weights),
    ("GPU: fp32 gradients", lambda column: column.rank("full").gradients),
    ("GPU: fp32 weights, two Adam moments", lambda column: column.rank("full").optimizer),
    ('GPU: activations, `recompute = "full"`', lambda column: column.rank("full").activations),
    ('GPU: activations, `"selective"`', lambda column: column.rank("selective").activations),
    ('GPU: activations, `"none"`', lambda column: column.rank("none").activations),
    ("GPU: output layer, on the last stage", lambda column: _last(column).logits),
    ("GPU: Adam's step, after these", lambda column: column.rank("full").update),
    ('**GPU at once, `"full"`**', lambda column: column.rank("full").model),
    ('GPU at once, `"none"`', lambda column: column.rank("none").model),
    (f'GPU at once, `"full"`, {_ADAPTED}', lambda column: column.adapted().rank("full").model),
    ("a checkpoint: 14 P", lambda column: _checkpoint(column)),
    (f"a checkpoint, {_ADAPTED}", lambda column: checkpoint_bytes(adapter_count(column.config, _LORA), "bfloat16")),
    (f"host memory of a node of {GPUS_A_NODE} GPUs, or of 4", Column.node),
    (f"disk: {_CHECKPOINTS} checkpoints", lambda column: _CHECKPOINTS * _checkpoint(column)),
    (
        f"disk: {_CHECKPOINTS} with `publish.average`: 18 P",
        lambda column: _CHECKPOINTS * _checkpoint(column, averaged=True),
    ),
    (f"disk: {_VERSIONS} times the weights", lambda column: _VERSIONS * 2 * parameter_count(column.config)),
]


def table() -> str:
    """The table between its two marks."""
    head = [f"| | {' | '.join(column.title for column in COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    rows = [f"| {name} | {' | '.join(_size(value(column)) for column in COLUMNS)} |" for name, value in _ROWS]
    return "\n".join([BEGIN, *head, *rows, END])


def _checkpoint(column: Column, averaged: bool = False) -> int:
    return checkpoint_bytes(parameter_count(column.config), "bfloat16", averaged)


def _last(column: Column) -> RankMemory:
    return memory_by_stage(column.config, column.work)[-1]


def _size(count: float) -> str:
    if count >= 1e12:
        return f"{count / 1e12:.1f} TB"
    return f"{count / 1e9:.{0 if count >= 1e11 else 1}f} GB"


def main(arguments: list[str]) -> int:
    """Writes or checks the table; returns the exit status."""
    before = FILE.read_text()
    head, _, rest = before.partition(BEGIN)
    after = head + table() + rest.partition(END)[2]
    if "--write" in arguments:
        FILE.write_text(after)
    elif after != before:
        print(f"{FILE} has other sizes than the code: run `python -m tests.tools.memory_table --write` and commit")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
