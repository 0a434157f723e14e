"""Publishing a version against safetensors.save_file of the same tensors on the same disk; and verifying what was published.

    python -m tests.bench.publish [--megabytes 1500 1.2] [--rounds 5] [--dtype bfloat16] [--directory DIR]

In turn, each first in every third round: save_file as it is, which leaves the bytes in the page cache; save_file and fsync; a
publication on one rank, from the snapshot in host memory until it may be announced: file with its digest, fsync, index,
manifest, rename, pointer, what is too old removed. After that what a worker reads before it loads the version, with its
digests and with SHA-256. Ratios are the medians of the rounds' own, with the least and the largest: a disk that others use
changes from one minute to the next. In memory (--directory /dev/shm) they show what hashing and bookkeeping cost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from learner.config import PublishConfig
from learner.publish.publisher import Publisher
from learner.storage.fence import DirectoryFence
from leeway.v1 import manifest_pb2
from rollout.versions.manifest import read_manifest, verify_files
from runtime.digest import of_file
from tests.bench.delta import Registry
from tests.tools.publishing import ready

_HIDDEN = 1024
_MB = 1_000_000
_AGAINST = ("save_file", "save_file, fsync")


def weights(megabytes: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """Makes the matrices of a decoder with as many layers as ``megabytes`` takes."""
    hidden = _HIDDEN if megabytes > 100 else _HIDDEN // 8
    shapes = {"q": (1, 1), "o": (1, 1), "gate": (3, 1), "up": (3, 1), "down": (1, 3)}
    found: dict[str, Tensor] = {"model.embed_tokens.weight": torch.randn(16 * hidden, hidden).to(dtype)}
    while sum(tensor.nbytes for tensor in found.values()) < megabytes * _MB:
        layer = len(found)
        for name, (rows, columns) in shapes.items():
            found[f"model.layers.{layer}.{name}.weight"] = torch.randn(rows * hidden, columns * hidden).to(dtype)
    return found


class Bench:
    """Tensors of one total size, and the ways of writing them and of reading them again.

    Args:
        root: a directory that is made on the disk to measure.
        megabytes: total size.
        dtype: "float32" or "bfloat16".
    """

    def __init__(self, root: Path, megabytes: float, dtype: str) -> None:
        self._root = root
        self._tensors = weights(megabytes, getattr(torch, dtype))
        self.size = sum(tensor.nbytes for tensor in self._tensors.values())
        self.count = len(self._tensors)
        root.mkdir()
        (root / "config.json").write_text("{}")
        self._fence = DirectoryFence(root / "weights", 1)
        self._fence.acquire()
        self._registry = Registry()
        settings = PublishConfig.model_validate({"dir": self._fence.root, "dtype": dtype, "keep": 2})
        self._publisher = Publisher(settings, self._fence, root, 0, self._registry)

    def save(self) -> None:
        save_file(self._tensors, self._root / "saved")

    def save_durably(self) -> None:
        self.save()
        with (self._root / "saved").open("rb+") as file:
            os.fsync(file.fileno())

    def publish(self) -> None:
        self._publisher.publish(0, ready(list(self._tensors.items())))
        self._publisher.wait()

    @property
    def directory(self) -> Path:
        """Directory of the published version."""
        (directory,) = self._fence.root.glob("weight_v*")
        return directory

    def manifests(self) -> dict[str, manifest_pb2.Manifest]:
        """The published version's manifest, and one with SHA-256 for comparison, by the name of the measurement."""
        published, compared = read_manifest(self.directory), manifest_pb2.Manifest()
        for file in published.files:
            _, digest = of_file(self.directory / file.name, "sha256")
            compared.files.add(name=file.name, size=file.size, digest=digest)
        return {"verification": published, "verification, SHA-256": compared}

    def clear(self) -> None:
        """Removes what the previous round has written."""
        (self._root / "saved").unlink(missing_ok=True)
        for path in self._fence.root.glob("weight_v*"):
            shutil.rmtree(path)
        os.sync()


def measure(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Runs every way in every round; returns its seconds, round by round."""
    ways = list(zip((*_AGAINST, "publication"), (bench.save, bench.save_durably, bench.publish), strict=True))
    seconds: dict[str, list[float]] = {name: [] for name, _ in ways}
    for _ in range(rounds):
        for name, way in ways:
            bench.clear()
            seconds[name].append(_timed(way))
            if name == "publication":
                for reading, manifest in bench.manifests().items():
                    read = partial(verify_files, bench.directory, manifest.files)
                    seconds.setdefault(reading, []).append(_timed(read))
        ways = [*ways[1:], ways[0]]
    return seconds


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=0, world_size=1)
        for number, megabytes in enumerate(options.megabytes):
            bench = Bench(Path(directory) / str(number), megabytes, options.dtype)
            seconds = measure(bench, options.rounds)
            print(f"{bench.size / _MB:.1f} MB, {options.dtype}, {bench.count} tensors, {options.rounds} rounds")
            for name, times in seconds.items():
                rate = bench.size / 1e9 / statistics.median(times)
                print(f"  {name:21} {rate:6.2f} GB/s  ({' '.join(f'{value:.3f}' for value in times)} s)")
            for name in _AGAINST:
                ratios = [other / ours for other, ours in zip(seconds[name], seconds["publication"], strict=True)]
                print(
                    f"  publication / {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                )
        dist.destroy_process_group()


def _timed(way: Callable[[], None]) -> float:
    started = time.monotonic()
    way()
    return time.monotonic() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1500, 1.2], help="the second is the demo's size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--directory", type=Path, default=None, help="on the disk to measure; default: the system's")
    main(parser.parse_args())
