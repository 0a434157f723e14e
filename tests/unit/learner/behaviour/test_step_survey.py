"""What an objective is shown of a step: on every rank, the same tokens, those of all data ranks."""

from __future__ import annotations

import multiprocessing
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from learner.behaviour.step_survey import survey_step
from learner.megatron.parallel import Ranks
from learner.objectives import Objective

WORLD = 3  # ranks 0 and 1 are data ranks on the last stage, rank 2 is on another stage and has no log-probabilities


class Shown(Objective):
    """An objective that keeps what its survey was shown."""

    needs_survey = True

    def loss(self, logp: Tensor, responses: object) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def survey(self, log_ratio: Tensor, advantage: Tensor) -> None:
        self.shown = sorted(zip(log_ratio.tolist(), advantage.tolist(), strict=True))


def sequences() -> list[Sequence]:
    """Three responses of 2, 1 and 1 loss tokens, with the advantages 0.5, -1 and 2."""
    return [
        Sequence(torch.arange(count + 1), torch.arange(count + 1) > 0, advantage, 1.0)
        for count, advantage in ((2, 0.5), (1, -1.0), (1, 2.0))
    ]


def take_part(rank: int, store: str, found: Queue[tuple[int, list[tuple[float, float]], int]]) -> None:
    """One rank's part: log-ratio k + data rank / 8 for its k-th loss token."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD)
    last = rank < 2
    ranks = SimpleNamespace(
        rank=rank,
        world=WORLD,
        is_last_stage=last,
        tensor_rank=0,
        context_rank=0,
        control=dist.group.WORLD,
    )
    batch = pack(sequences(), Layout(data_ranks=2), rank if last else 0)
    count = sum(len(micro_batch.loss_row) for micro_batch in batch.micro_batches)
    objective = Shown()
    survey_step(objective, cast(Ranks, ranks), batch, torch.arange(count) + rank / 8)
    found.put((rank, objective.shown, count if last else 0))
    dist.destroy_process_group()


def test_every_rank_sees_the_tokens_of_all_data_ranks(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    processes = [
        context.Process(target=take_part, args=(rank, str(tmp_path / "store"), found)) for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    try:
        shown = {rank: (values, count) for rank, values, count in (found.get(timeout=300) for _ in processes)}
    finally:
        for process in processes:
            process.join(timeout=60)
            process.kill()
    assert shown[0][0] == shown[1][0] == shown[2][0]
    assert {shown[0][1], shown[1][1]} <= {1, 2, 3}  # both have tokens, and not equally many
    assert shown[0][1] + shown[1][1] == len(shown[0][0]) == 4
    assert sorted(advantage for _, advantage in shown[0][0]) == [-1.0, 0.5, 0.5, 2.0]
    firsts = {log_ratio for log_ratio, _ in shown[0][0] if log_ratio < 1}
    assert firsts == {0.0, 1 / 8}  # the first token of either data rank, none of the other stage's
