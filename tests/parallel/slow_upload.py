"""The program of a rank in test_publication: a training loop whose uploads do not end before the test says so.

Arguments: rank, directory (with `store` and `model`). The rank makes `uploading-RANK` when its first upload begins and
`trained-RANK` after its last step; uploads wait for the file `release`. Rank 0 writes `announced.json` at the end.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fsspec.implementations.local import LocalFileSystem
from google.protobuf import json_format

from learner.config import MirrorConfig, PublishConfig
from learner.publish.publisher import Publisher
from learner.storage.fence import DirectoryFence
from tests.parallel.publishing import Registry
from tests.tools.publishing import ready

STEPS = 5
COLLECTIVE_TIMEOUT_S = 8.0
_DEADLINE_S = 240.0


def weights(rank: int, step: int) -> torch.Tensor:
    """The rank's tensor after a step."""
    return torch.full((16,), float(step + 100 * rank))


def hold_uploads(rank: int, directory: Path) -> None:
    """Makes every upload of this process wait until the file ``release`` exists."""
    put_file = LocalFileSystem.put_file

    def held(store: Any, *arguments: Any, **options: Any) -> Any:
        (directory / f"uploading-{rank}").touch()
        deadline = time.monotonic() + _DEADLINE_S
        while not (directory / "release").exists():
            assert time.monotonic() < deadline, "no release"
            time.sleep(0.02)
        return put_file(store, *arguments, **options)

    LocalFileSystem.put_file = held  # type: ignore[method-assign]


def main(rank: int, directory: Path) -> None:
    """Trains all steps, each with a collective and a publication, and then waits for the publications."""
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    training = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S))
    hold_uploads(rank, directory)
    fence = DirectoryFence(directory / "weights", 1)
    registry = Registry() if rank == 0 else None
    if registry is not None:
        fence.acquire()
    config = PublishConfig(dir=fence.root, mirror=(MirrorConfig(name="store", url=f"file://{directory}/mirror"),))
    publisher = Publisher(config, fence, directory / "model", 0, registry)
    for step in range(1, STEPS + 1):
        publisher.publish(step, ready([(f"part{rank}", weights(rank, step))]))
        dist.all_reduce(torch.ones(1), group=training)
    (directory / f"trained-{rank}").touch()
    publisher.wait()
    if registry is not None:
        policies = [json_format.MessageToDict(policy, preserving_proto_field_name=True) for policy in registry.policies]
        (directory / "announced.json").write_text(json.dumps(policies))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
