"""A learner that publishes small versions, in a process group of one rank that the test module has made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from learner.config import MirrorConfig, PublishConfig
from learner.publish.mirrors import MirrorOutcome
from learner.publish.publisher import Publisher
from learner.publish.shard_source import Shard
from learner.storage.fence import DirectoryFence
from leeway.v1 import rollout_pb2
from rollout.versions.verifier import Verifier


class Ready:
    """An export of tensors that nobody changes. ``released`` counts the calls of ``release``."""

    def __init__(self, tensors: Shard) -> None:
        self._tensors = tensors
        self.released = 0

    def shard(self) -> Shard:
        return self._tensors

    def release(self) -> None:
        self.released += 1


def ready(tensors: Shard) -> Callable[[int], Ready]:
    """What ``Publisher.publish`` is given for tensors that nobody changes."""
    return lambda version: Ready(tensors)


class Registry:
    def __init__(self) -> None:
        self.policies: dict[int, rollout_pb2.Policy] = {}
        self.failures: list[int] = []
        self.replaced: list[int] = []
        self.outcomes: list[MirrorOutcome] = []

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        self.policies[policy.version] = policy

    def not_published(self, version: int, error: Exception) -> None:
        self.failures.append(version)

    def coalesced(self, step: int, replaced: int) -> None:
        self.replaced.append(replaced)

    def mirrored(self, outcomes: Sequence[MirrorOutcome]) -> None:
        self.outcomes += outcomes

    def in_use(self) -> set[int]:
        return set()


class Scene:
    """A learner that publishes versions of two tensors, each differing from the one before in a few elements."""

    def __init__(self, root: Path, url: str | None = None, **settings: Any) -> None:
        self.root = root / "weights"
        self.url = url
        if url is not None:
            settings["mirror"] = (MirrorConfig(name="store", url=url),)
        self.model = root / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        self.draw = torch.Generator().manual_seed(0)
        self.weights = {
            "embed": torch.randn(64, 32, generator=self.draw).bfloat16(),
            "norm": torch.ones(32).bfloat16(),
        }
        save_file(self.weights, self.model / "model.safetensors")
        self.registry = Registry()
        self.fence = DirectoryFence(self.root, 1)
        self.fence.acquire()
        config = PublishConfig(dir=self.root, dtype="bfloat16", **settings)
        self.publisher = Publisher(config, self.fence, self.model, 0, self.registry)
        self.history: list[dict[str, Tensor]] = []

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.weights = {name: tensor.clone() for name, tensor in self.weights.items()}
            where = torch.randint(64 * 32, (20,), generator=self.draw)
            self.weights["embed"].view(-1)[where] += 1
            self.history.append(self.weights)
            self.publisher.publish(len(self.history), ready(list(self.weights.items())))
            self.publisher.wait()

    def reader(self, cache: Path, url: str | None = None) -> Callable[[int], None]:
        """Returns a function that verifies a version as a worker does, with ``cache``, and compares every bit of it."""
        verifier = Verifier(self.model, [url or self.url or self.root.as_uri()], cache)

        def read(version: int) -> None:
            found = verifier.verify(self.registry.policies[version])
            tensors = load_file(found.path / "model-00000.safetensors")
            for name, expected in self.history[version].items():
                assert torch.equal(tensors[name].view(torch.int16), expected.view(torch.int16)), name

        return read
