"""The policy that a run starts from: the demo's model, taught by the product's warm start until it earns some reward."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path

from safetensors.torch import save_file

from learner.batch.packing import Layout
from learner.megatron.model.build import load_policy
from learner.megatron.model.export import Exporter
from learner.megatron.parallel import Ranks
from learner.megatron.training.trainer import Trainer
from learner.warmup import warm_up
from rollout.data.demo_model import write_model
from rollout.data.tokenizer import Tokenizer
from tests.evidence.cell import SHAPES, Cell
from tests.evidence.learning import learner_config
from tests.evidence.supply import PromptSupply

TARGET = 0.2  # mean probability of a reference response, at which the warm start ends
_FORMAT = 1  # of the cache; it grows when a change makes earlier policies another starting point
_DEMONSTRATIONS = 20_000
_RATE = {"sort": 2e-3, "add": 2e-3, "sumto": 1e-3, "uneven": 2e-3}
_OF_LARGE = 0.1  # of these rates, for the largest model
_MOST_STEPS = 3000


def warm_started(cell: Cell, cache: Path, ranks: Ranks) -> Path:
    """Returns the model directory of a cell's first policy, made now if no other run with its task and seed has made it."""
    directory = cache / f"warm-{_FORMAT}" / f"{cell.task}-{cell.model}-{cell.seed}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            with tempfile.TemporaryDirectory(dir=directory.parent) as temporary:
                made = Path(temporary) / "model"
                _make(cell, made, ranks)
                os.replace(made, directory)
    return directory


def _make(cell: Cell, directory: Path, ranks: Ranks) -> None:
    write_model(directory, cell.seed, SHAPES[cell.model])
    demonstrations = directory / "demonstrations.jsonl"
    _demonstrate(cell, Tokenizer(directory), demonstrations)
    warmup = {"demonstrations": str(demonstrations), "target": TARGET, "max_steps": _MOST_STEPS}
    first = Cell(task=cell.task, objective="sft", lr=_rate(cell), model=cell.model, seed=cell.seed)
    config = learner_config(first, directory, {"warmup": warmup | {"lr": first.lr}})
    policy = load_policy(directory, ranks, config)
    warm_up(config, Trainer(policy, config.optimizer, ranks), Layout(), ranks, None, lambda: False)
    export = Exporter(policy, ranks, "float32").begin(whole=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in export.shard()}, directory / "model.safetensors")
    export.release()
    demonstrations.unlink()


def _rate(cell: Cell) -> float:
    return _RATE[cell.task] * (_OF_LARGE if cell.model == "large" else 1.0)


def _demonstrate(cell: Cell, tokenizer: Tokenizer, path: Path) -> None:
    """Writes demonstrations of prompts that are not held out, drawn with another seed than those of training."""
    supply = PromptSupply(cell.task, -1 - cell.seed, tokenizer)
    with path.open("w") as file:
        for question in supply.take(_DEMONSTRATIONS):
            solution = supply.task.solution(question.prompt)
            assert solution is not None
            response = tokenizer.response_ids(solution)
            row = {"prompt": question.ids, "response": response, "generated": [[0, len(response)]]}
            file.write(json.dumps(row) + "\n")
