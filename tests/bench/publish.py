"""Publishing a version against safetensors.save_file of the same tensors on the same disk.

    python -m tests.bench.publish [--megabytes 400] [--rounds 5] [--dtype bfloat16] [--directory DIR]

In turn, round by round: save_file as it is, which leaves the bytes in the page cache; save_file and fsync; and a whole
publication on one rank: file with its SHA-256, fsync, index, manifest, rename, pointer. Ratios are of the medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from learner.claim import Claim
from learner.config import PublishConfig
from learner.publish import Publisher
from tests.bench.delta import Registry

_HIDDEN = 1024


def weights(megabytes: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A decoder's matrices, as many layers as it takes."""
    shapes = {"q": (1, 1), "o": (1, 1), "gate": (3, 1), "up": (3, 1), "down": (1, 3)}
    found: dict[str, Tensor] = {"model.embed_tokens.weight": torch.randn(16 * _HIDDEN, _HIDDEN).to(dtype)}
    while sum(tensor.nbytes for tensor in found.values()) < megabytes * 1_000_000:
        layer = len(found)
        for name, (rows, columns) in shapes.items():
            found[f"model.layers.{layer}.{name}.weight"] = torch.randn(rows * _HIDDEN, columns * _HIDDEN).to(dtype)
    return found


def main(options: argparse.Namespace) -> None:
    tensors = weights(options.megabytes, getattr(torch, options.dtype))
    size = sum(tensor.nbytes for tensor in tensors.values())
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        root = Path(directory)
        dist.init_process_group("gloo", init_method=f"file://{root}/store", rank=0, world_size=1)
        (root / "config.json").write_text("{}")
        claim = Claim(root / "weights", 1)
        claim.take()
        settings = PublishConfig(dir=claim.root, dtype=options.dtype, keep=2)
        publisher = Publisher(settings, claim, root, 0, Registry())

        def durable() -> None:
            save_file(tensors, root / "durable")
            with (root / "durable").open("rb+") as file:
                os.fsync(file.fileno())

        def published() -> None:
            publisher.publish(0, list(tensors.items()))
            publisher.wait()

        ways: dict[str, Callable[[], None]] = {
            "save_file": lambda: save_file(tensors, root / "plain"),
            "save_file, fsync": durable,
            "publication": published,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                os.sync()  # what the one before left behind is not this one's
                seconds[name].append(_timed(way))
                _clear(root)
        dist.destroy_process_group()
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{size / 1e6:.0f} MB, {options.dtype}, {len(tensors)} tensors, {options.rounds} rounds")
    for name, times in seconds.items():
        spread = " ".join(f"{value:.2f}" for value in times)
        print(f"{name:17} {size / 1e6 / median[name]:7.0f} MB/s  ({spread} s)")
    for name in ("save_file", "save_file, fsync"):
        print(f"publication / {name}: {median[name] / median['publication']:.2f}")


def _timed(way: Callable[[], None]) -> float:
    started = time.monotonic()
    way()
    return time.monotonic() - started


def _clear(root: Path) -> None:
    for path in (root / "plain", root / "durable"):
        path.unlink(missing_ok=True)
    for path in (root / "weights").glob("weight_v*"):
        shutil.rmtree(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure; default: the system's")
    main(parser.parse_args())
