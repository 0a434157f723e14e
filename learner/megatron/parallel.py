"""The ranks of a learner: their process groups, which shard of the model each holds, and messages from rank 0."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch._C._distributed_c10d import Store  # torch.distributed exports it without declaring it

from learner.config import ParallelConfig
from learner.megatron.patches.cpu import install
from runtime.errors import MISCONFIGURED, LeewayError

T = TypeVar("T")
_HEARTBEAT_S = 1.0  # between two messages from rank 0 while it works; well within the timeout of a collective


class LayoutError(LeewayError):
    """The processes that were started cannot be laid out as configured."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class Ranks:
    """This process's indices in every parallel dimension, and the process groups it belongs to.

    Ranks are numbered tensor first, then context, then data, then pipeline: the last rank is on the last stage.
    Expert-parallel ranks are neighbours within a stage.

    Attributes:
        rank: index of this process, 0 to world - 1.
        local_size: number of ranks on this machine.
        chunks: model chunks on each stage (virtual pipeline); chunk c of stage s is number c * pipeline_size + s of all
            chunks, in the order of the layers.
        sequence: whether sequence parallelism is on.
        tensor_group: the ranks that share this rank's layers and tokens.
        context_group: the ranks that hold the other tokens of the same sequences, and the same layers.
        expert_group: the ranks that hold the other experts of this rank's layers.
        control: gloo group of all ranks, for everything but training: decisions, and what rank 0 has read.
        timeout: limit of one collective.
    """

    rank: int
    world: int
    local_size: int
    tensor_rank: int
    tensor_size: int
    pipeline_rank: int
    pipeline_size: int
    chunks: int
    context_rank: int
    context_size: int
    expert_rank: int
    expert_size: int
    data_rank: int
    data_size: int
    sequence: bool
    device: torch.device
    tensor_group: dist.ProcessGroup
    context_group: dist.ProcessGroup
    expert_group: dist.ProcessGroup
    control: dist.ProcessGroup
    timeout: timedelta

    @property
    def replicas(self) -> int:
        """Number of ranks that hold the same shard of the model; they differ in their tokens only."""
        return self.data_size * self.context_size

    @property
    def replica_rank(self) -> int:
        """Index of this rank among its replicas, 0 to replicas - 1."""
        return self.data_rank * self.context_size + self.context_rank

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.pipeline_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the output layer."""
        return self.pipeline_rank == self.pipeline_size - 1

    def broadcast_bytes(self, data: bytes | None) -> bytes:
        """Returns rank 0's ``data`` on every rank; what others pass is ignored. Collective."""
        return _broadcast(self.control, self.rank, data)

    def channel(self) -> Callable[[bytes | None], bytes]:
        """Returns a ``broadcast_bytes`` of its own process group, for use in one thread of every rank. Collective."""
        group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=self.timeout))
        return partial(_broadcast, group, self.rank)

    def agree(self, values: list[int]) -> list[int]:
        """Returns rank 0's ``values`` on every rank; all pass a list of the same length. Collective."""
        agreed = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(agreed, src=0, group=self.control)
        return agreed.tolist()

    def any(self, value: bool) -> bool:
        """Whether ``value`` is true on some rank. Collective."""
        return bool(self.largest(int(value)))

    def largest(self, value: int) -> int:
        """Returns the largest ``value`` of all ranks. Collective."""
        largest = torch.tensor([value])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.control)
        return int(largest)

    def union(self, values: list[int]) -> list[int]:
        """Returns the distinct ``values`` of all ranks, ascending. Collective."""
        gathered: list[list[int]] = [[] for _ in range(self.world)]
        dist.all_gather_object(gathered, values, group=self.control)
        return sorted({value for own in gathered for value in own})

    def run_on_rank_zero(self, work: Callable[[], T]) -> T | None:
        """Runs ``work`` on rank 0, in a thread, while the other ranks wait, however long it takes. Collective.

        Rank 0 sends the others a message every second, so that none runs into the timeout of a collective.

        Returns:
            On rank 0, what ``work`` returns; None elsewhere.

        Raises:
            Exception: on rank 0, whatever ``work`` raises.
        """
        if self.rank:
            while not self.agree([0])[0]:
                pass
            return None
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(work)
            done = False
            while not done:
                done = bool(wait([result], timeout=_HEARTBEAT_S).done)
                self.agree([int(done)])
            return result.result()

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        dist.barrier(group=self.control)

    def stop(self) -> None:
        """Waits for every rank, then leaves the process groups. Collective."""
        self.barrier()
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _broadcast(group: dist.ProcessGroup, rank: int, data: bytes | None) -> bytes:
    payload = torch.frombuffer(bytearray(data or b""), dtype=torch.uint8) if rank == 0 and data else None
    length = torch.tensor([len(payload) if payload is not None else 0])
    dist.broadcast(length, src=0, group=group)
    if payload is None:
        payload = torch.empty(int(length), dtype=torch.uint8)
    if len(payload):
        dist.broadcast(payload, src=0, group=group)
    return payload.numpy().tobytes()


def start(config: ParallelConfig, seed: int, timeout_s: float, store: Store | None = None) -> Ranks:
    """Joins the other ranks, which torchrun's environment variables lead to, and makes the process groups. Collective.

    Args:
        config: how the model is divided over the ranks.
        seed: seed of Megatron's random states.
        timeout_s: limit of one collective, seconds; a rank that waits longer raises, so that a lost peer is noticed.
        store: where the ranks find each other; torchrun's own by default, which serves one start only.

    Raises:
        LayoutError: the process was not started by torchrun, or the world size is no multiple of ``config.ranks``.
    """
    device = install()
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise LayoutError("RANK and WORLD_SIZE are not set: start the learner with python -m torch.distributed.run")
    world = int(os.environ["WORLD_SIZE"])
    if world % config.ranks:
        raise LayoutError(
            f"world size {world} is not divisible by pipeline * lcm(tensor * context, expert) = {config.pipeline} * "
            f"lcm({config.tensor} * {config.context}, {config.expert}) = {config.ranks} of learner.parallel: start a "
            f"multiple of {config.ranks} ranks or change learner.parallel"
        )
    timeout = timedelta(seconds=timeout_s)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        timeout=timeout,
        rank=int(os.environ["RANK"]),
        world_size=world,
        store=store,
        device_id=device if device.type == "cuda" else None,
    )
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor,
        pipeline_model_parallel_size=config.pipeline,
        virtual_pipeline_model_parallel_size=config.virtual_pipeline if config.virtual_pipeline > 1 else None,
        context_parallel_size=config.context,
        expert_model_parallel_size=config.expert,
        expert_tensor_parallel_size=1,  # experts are small: whole ones on more ranks beat slices of them
        distributed_timeout_minutes=math.ceil(timeout_s / 60),
        create_gloo_process_groups=False,
    )
    model_parallel_cuda_manual_seed(seed)
    # What the imports made lives for ever; megatron collects garbage at every save, and going through it all takes 0.2 s.
    gc.freeze()
    return _ranks(config, device, timeout)


def _ranks(config: ParallelConfig, device: torch.device, timeout: timedelta) -> Ranks:
    return Ranks(
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=config.tensor,
        pipeline_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pipeline_size=config.pipeline,
        chunks=config.virtual_pipeline,
        context_rank=parallel_state.get_context_parallel_rank(),
        context_size=config.context,
        expert_rank=parallel_state.get_expert_model_parallel_rank(),
        expert_size=config.expert,
        data_rank=parallel_state.get_data_parallel_rank(),
        data_size=parallel_state.get_data_parallel_world_size(),
        sequence=config.sequence,
        device=device,
        tensor_group=cast(dist.ProcessGroup, parallel_state.get_tensor_model_parallel_group()),
        context_group=cast(dist.ProcessGroup, parallel_state.get_context_parallel_group()),
        expert_group=cast(dist.ProcessGroup, parallel_state.get_expert_model_parallel_group()),
        control=cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=timeout)),
        timeout=timeout,
    )
