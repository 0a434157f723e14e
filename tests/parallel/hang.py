"""The program of a rank in test_watchdog: steps that need its peer, each recorded by one more byte in a file.

Arguments: rank, the store's file, the progress file, the watchdog's limit in seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from learner.process.watchdog import Watchdog


def main(rank: int, store: str, progress: Path, limit_s: float) -> None:
    """Steps until it is killed, or until its peer is silent for ``limit_s`` seconds."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    watchdog = Watchdog(limit_s)
    while True:
        watchdog.alive()
        dist.all_reduce(torch.ones(1))
        with progress.open("a") as file:
            file.write(".")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
