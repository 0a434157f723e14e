"""The program of the ranks: it runs the cases of a JSON file one after another, each under a layout of its own.

Forked by rank_parent.py. Results come back as <out>/<case>.json from rank 0 and <out>/<case>.<rank>.safetensors
from every rank that exports tensors.
"""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.culprits import culprits
from learner.batch.packing import Layout, pack, without_groups
from learner.batch.types import Sequence
from learner.checkpoint.store import CheckpointState, latest, name, write_state
from learner.config.control import DiagnosticsConfig
from learner.megatron.checkpointing.async_save import SaveError
from learner.megatron.checkpointing.sharded_state import ShardedState
from learner.megatron.model.grouped_experts import GroupedExperts
from learner.megatron.training.trainer import StepStats, Trainer
from learner.objectives.base import Loss, Objective, Responses
from learner.objectives.policy_gradient import Reinforce
from learner.storage.digests import file_digests
from tests.parallel.adams import adams
from tests.parallel.case import Case
from tests.parallel.cell import cell
from tests.parallel.governed import governed
from tests.parallel.march import march
from tests.parallel.overlap import overlap, resumed
from tests.parallel.recompute import recompute
from tests.parallel.waits import waits


def equivalence(case: Case) -> dict[str, Any]:
    """Computes loss and gradient of the first step, then takes three steps of Adam."""
    case.keep("initial", case.export())
    unclipped = case.config.optimizer.model_copy(update={"clip_grad": 1e9, "expert_bias_rate": 0.0})
    still = Trainer(case.policy, unclipped, case.ranks).train_step(case.batch(), Reinforce(), 0.0)
    if case.ranks.replicas == 1:  # otherwise each rank holds a slice of the reduced gradient
        case.keep("gradient", case.export("main_grad"))
    before = case.trainer.evaluate(case.batch(), Reinforce())
    stats = [case.step() for _ in range(3)]
    case.keep("trained", case.export())
    return {
        "losses": [s.loss for s in stats],
        "norm": still.grad_norm,
        "evaluated": before,
        "metrics": still.metrics,
        "experts": still.expert_tokens,
        "together": any(isinstance(m, GroupedExperts) for model in case.policy.models for m in model.modules()),
    }


def movement(case: Case) -> dict[str, Any]:
    """Takes three steps; returns what the meters say of each, and keeps the weights before and after them.

    With a checkpoint it is saved after the second, or there is one and the third follows alone.
    """
    limit = case.spec.get("projects_above")
    trainer = Trainer(case.policy, case.config.optimizer, case.ranks, DiagnosticsConfig(update_stride=1), limit)
    state, directory = ShardedState(case.policy, trainer, case.ranks), Path(case.spec.get("checkpoint", ""))
    saves, resumes = case.spec.get("saves", False), case.spec.get("resumes", False)
    if resumes:
        state.load(directory)
    case.keep("at0", case.export())
    updates, cosines = [], []
    for number in range(3 if resumes else 1, 4):
        stats = trainer.train_step(case.batch(), Reinforce(), lambda stats: case.spec["lr"] * min(1.0, stats.grad_norm))
        assert stats.update is not None
        updates.append([stats.update.norm, stats.update.cosine])
        cosines.append(stats.gradient_cosine)
        case.keep(f"at{number}", case.export())
        if saves and number == 2:
            if case.ranks.rank == 0:
                directory.mkdir()
            case.ranks.barrier()
            state.begin_save(directory)
    state.poll(blocking=True)
    return {"updates": updates, "cosines": cosines}


def guard(case: Case) -> dict[str, Any]:
    """Attempts steps that must be skipped, in between three that are not."""
    poisoned = [*case.sequences[:-1], Sequence(**{**vars(case.sequences[-1]), "advantage": float("nan")})]
    mute = [Sequence(**{**vars(s), "generated": torch.zeros_like(s.generated)}) for s in case.sequences]
    losses = [case.step().loss]
    skipped = [
        case.trainer.train_step(case.batch(poisoned), Reinforce(), case.spec["lr"]).skipped,
        case.trainer.train_step(case.batch(), _InfiniteSlope(), case.spec["lr"]).skipped,
        case.trainer.train_step(case.batch(mute), Reinforce(), case.spec["lr"]).skipped,
    ]
    losses += [case.step().loss for _ in range(2)]
    case.keep("trained", case.export())
    return {"losses": losses, "skipped": skipped, "search": search(case, poisoned)}


def search(case: Case, poisoned: list[Sequence]) -> dict[str, Any]:
    """Searches for the last of the sequences, each a group of its own, and computes the gradient without it, twice."""
    grouped = [replace(sequence, group=number) for number, sequence in enumerate(poisoned)]
    batch, everyone, objective = case.batch(grouped), set(range(len(grouped))), Reinforce()

    def gradient(dropped: set[int]) -> StepStats:
        return case.trainer.gradient(without_groups(batch, dropped, case.layout), objective)

    found = culprits(sorted(everyone), ["a", "b"] * len(grouped), lambda groups: gradient(everyone - groups).finite)
    rest, packed = gradient(found or set()), case.trainer.gradient(case.batch(grouped[:-1]), objective)
    return {
        "found": sorted(found or []),
        "left_out": [rest.loss, rest.grad_norm, *rest.group_weights[:-1]],
        "packed_anew": [packed.loss, packed.grad_norm, *packed.group_weights],
        "by_hand": [abs(one.advantage) * one.weight / one.temperature for one in grouped[:-1]],
        "last": rest.group_weights[-1],
    }


def save(case: Case) -> dict[str, Any]:
    """Takes three steps, saves, and takes three more while the save is written. Leaves random numbers for ``resume``."""
    torch.manual_seed(40 + case.ranks.rank)
    state = ShardedState(case.policy, case.trainer, case.ranks)
    directory = Path(case.spec["checkpoint"])
    if case.ranks.rank == 0:
        directory.mkdir()
    losses = [case.step().loss for _ in range(3)]
    case.ranks.barrier()
    idle = state.poll(blocking=False)
    state.begin_save(directory)
    torch.save(torch.rand(3), case.out / f"{directory.name}.draw.{case.ranks.rank}")
    losses += [case.step().loss for _ in range(3)]
    durable = state.poll(blocking=True)
    kept = state.digests()
    here = file_digests(directory, kept) if case.ranks.rank == 0 else {}
    copied: list[Any] = [None] * case.ranks.world
    dist.all_gather_object(copied, state.copied, case.ranks.control)
    found = {"losses": losses, "durable": durable, "idle": idle, "true": here == kept, "copied": copied}
    return found | {"digests": {name: size.size for name, size in kept.items()}}


def resume(case: Case) -> dict[str, Any]:
    """Loads a checkpoint, of another layout in most cases, and takes three steps."""
    checkpoint = Path(case.spec["checkpoint"])
    ShardedState(case.policy, case.trainer, case.ranks).load(checkpoint)
    drawn = case.out / f"{checkpoint.name}.draw.{case.ranks.rank}"
    again = torch.tensor(int(drawn.is_file() and torch.equal(torch.load(drawn), torch.rand(3))))
    dist.all_reduce(again)
    return {"losses": [case.step().loss for _ in range(3)], "drawn_again": int(again)}


def unwritable(case: Case) -> dict[str, Any]:
    """Saves into a directory that does not exist: every rank must report it, and the next step must work."""
    state = ShardedState(case.policy, case.trainer, case.ranks)
    case.step()
    failure = ""
    state.begin_save(Path(case.spec["checkpoint"]) / "nowhere")
    try:
        state.poll(blocking=True)
    except SaveError as error:
        failure = str(error)
    raised = torch.tensor(int("rank 3" in failure and "No such file" in failure))
    dist.all_reduce(raised)
    return {"raised": int(raised), "loss": case.step().loss}


def sparse(case: Case) -> dict[str, Any]:
    """Trains on fewer sequences than micro-batches, so that some are empty; and on one micro-batch per rank, to compare."""
    few = case.sequences[:3]
    stats = [case.trainer.train_step(case.batch(few), Reinforce(), 0.0)]
    case.spec["micro_batches"] = 1
    stats.append(case.trainer.train_step(case.batch(few), Reinforce(), 0.0))
    return {
        "losses": [s.loss for s in stats],
        "norms": [s.grad_norm for s in stats],
        "skipped": [s.skipped for s in stats],
    }


def counts(case: Case) -> dict[str, Any]:
    """Runs all sequences in more and more micro-batches, each of its own length; forward, then forward and backward."""
    losses, norms = [], []
    for count in range(case.ranks.pipeline_size, 10):
        case.spec["micro_batches"] = count
        losses.append(case.trainer.evaluate(case.batch(), Reinforce())["loss"])
        stats = case.trainer.train_step(case.batch(), Reinforce(), 0.0)
        losses.append(stats.loss)
        norms.append(stats.grad_norm)
    return {"losses": losses, "norms": norms}


def ragged(case: Case) -> dict[str, Any]:
    """Trains on a micro-batch that sequence parallelism cannot split: refused before any rank waits for another."""
    batch = pack(case.sequences[:1], Layout(case.ranks.data_size, 1))  # 11 tokens
    try:
        case.trainer.train_step(batch, Reinforce(), 0.0)
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


def talk(case: Case) -> dict[str, Any]:
    """Sends messages from rank 0 to all, and others at the same time through a thread's own channel."""
    lead = case.ranks.rank == 0
    received = case.ranks.broadcast_bytes(b"\x00groups\xff" if lead else None)
    empty = case.ranks.broadcast_bytes(b"" if lead else None)
    agreed = case.ranks.agree([7, -1] if lead else [0, 0])
    channel, received_in_thread = case.ranks.channel(), []
    texts = [bytes([number]) * (1 + 1000 * number) for number in range(40)]
    thread = threading.Thread(
        target=lambda: received_in_thread.extend(channel(text if lead else None) for text in texts)
    )
    thread.start()
    received_here = [case.ranks.broadcast_bytes(text if lead else None) for text in texts]
    thread.join()
    first = received == b"\x00groups\xff" and empty == b"" and agreed == [7, -1]
    good = torch.tensor(int(first and received_in_thread == received_here == texts))
    dist.all_reduce(good)
    return {"good": int(good)}


def slow_reader(case: Case) -> dict[str, Any]:
    """Reads a checkpoint on rank 0 for longer than a collective may take; the other ranks must survive it."""
    root, ranks = Path(case.spec["checkpoint"]), case.ranks
    limit = timedelta(seconds=case.spec["limit_s"])
    hasty = replace(ranks, control=cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=limit)))

    def read() -> str:
        directory = root / name(3, 1)
        directory.mkdir(parents=True)
        (directory / "shard").write_bytes(b"weights")
        write_state(directory, CheckpointState(3, 1, [], files=file_digests(directory, ["shard"])))
        time.sleep(2 * limit.total_seconds())  # a slow disk
        found = latest(root)
        return found.directory.name if found else ""

    began = time.monotonic()
    found = hasty.run_on_rank_zero(read)
    waited = torch.tensor(int(time.monotonic() - began > limit.total_seconds()))
    dist.all_reduce(waited)
    return {"found": found, "waited": int(waited), "agreed": hasty.agree([5])}


class _InfiniteSlope(Objective):
    """A loss that is finite (0) with a gradient that is not: the slope of a square root at 0."""

    def loss(self, logp: Tensor, responses: Responses) -> Loss:
        return (logp - logp.detach()).abs().sqrt().sum(), {}


def main(path: Path) -> None:
    """Runs the cases in ``path``; a case of fewer ranks leaves out the last ones."""
    rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
    for spec in json.loads(path.read_text()):
        os.environ["WORLD_SIZE"] = str(spec.get("world", world))
        if int(rank) >= int(os.environ["WORLD_SIZE"]):
            continue  # and waits for the others where the next case of all ranks begins
        with mock.patch("gc.freeze"):  # a start would freeze the case, and nothing could collect it
            case = Case(spec, path.parent)
        result = RUNS[spec["run"]](case)
        if case.ranks.rank == 0:
            (path.parent / f"{spec['name']}.json").write_text(json.dumps(result))
        case.ranks.stop()
        del case, result
        gc.collect()  # a process group and its threads live as long as something refers to it


RUNS: dict[str, Callable[[Case], dict[str, Any]]] = {
    run.__name__: run
    for run in (
        adams,
        cell,
        equivalence,
        governed,
        march,
        movement,
        guard,
        recompute,
        save,
        resume,
        unwritable,
        sparse,
        counts,
        ragged,
        talk,
        slow_reader,
        waits,
        overlap,
        resumed,
    )
}
