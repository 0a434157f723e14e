"""The program of a rank in test_publication: it publishes versions of a model of two shards; rank 1 fails to write the third.

Arguments: rank, directory (with `store`, `model` and, afterwards, `announced.json` of rank 0).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from google.protobuf import json_format

from learner.config import PublishConfig
from learner.publish.mirrors import MirrorOutcome
from learner.publish.publisher import Publisher
from learner.storage.fence import DirectoryFence
from leeway.v1 import rollout_pb2
from tests.tools.publishing import ready

VERSIONS, BROKEN = 6, 2


class Registry:
    """Records what is announced."""

    def __init__(self) -> None:
        self.policies: list[rollout_pb2.Policy] = []
        self.failures: list[int] = []
        self.replaced: list[int] = []

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        self.policies.append(policy)

    def not_published(self, version: int, error: Exception) -> None:
        self.failures.append(version)

    def coalesced(self, step: int, replaced: int) -> None:
        self.replaced.append(replaced)

    def mirrored(self, outcomes: Sequence[MirrorOutcome]) -> None:
        pass

    def in_use(self) -> set[int]:
        return set()


def weights(rank: int, version: int) -> torch.Tensor:
    """The rank's tensor of a version; one element differs from the previous version."""
    tensor = torch.arange(400).bfloat16() + rank
    tensor[: version + 1] = -1.0
    return tensor


def main(rank: int, directory: Path) -> None:
    """Publishes all versions; rank 0 writes announced.json at the end."""
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    fence = DirectoryFence(directory / "weights", 1)
    registry = Registry() if rank == 0 else None
    if registry is not None:
        fence.acquire()
    config = PublishConfig(dir=fence.root, dtype="bfloat16", full_every=9, keep=9)
    publisher = Publisher(config, fence, directory / "model", 0, registry)
    for version in range(VERSIONS):
        blocker = fence.staging_path(f"weight_v{version:06d}") / f"delta-{rank:05d}.safetensors"
        if version == BROKEN and rank == 1:
            blocker.mkdir(parents=True)  # a directory where the file should be
        publisher.publish(version, ready([(f"part{rank}", weights(rank, version))]))
        publisher.wait()
        dist.barrier()
    if registry is not None:
        policies = [json_format.MessageToDict(policy, preserving_proto_field_name=True) for policy in registry.policies]
        (directory / "announced.json").write_text(json.dumps({"policies": policies, "failures": registry.failures}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
