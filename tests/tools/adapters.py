"""Adapters of a small model, drawn at random, and a learner that publishes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from learner.config import LoraConfig, MirrorConfig, PublishConfig
from learner.publish.publisher import Publisher
from learner.storage.fence import DirectoryFence
from leeway.v1 import manifest_pb2, rollout_pb2
from rollout.data.demo_model import DemoShape, write_model
from runtime.version_format.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_names
from runtime.version_format.base_digest import weights_digest
from runtime.version_format.names import version_name
from tests.tools.published import write_manifest
from tests.tools.publishing import Registry, ready

LORA = LoraConfig(rank=3, alpha=6.0, targets=("q_proj", "v_proj", "down_proj"))


def draw(model: Path, lora: LoraConfig, seed: int, dtype: torch.dtype = torch.float32) -> list[tuple[str, Tensor]]:
    """Random matrices A and B for every layer of a model that ``lora`` names."""
    numbers = np.random.default_rng(seed)
    found: list[tuple[str, Tensor]] = []
    for name, weight in weights_of(model).items():
        if name.split(".")[-2:-1] and name.split(".")[-2] in lora.targets:
            out, into = weight.shape
            for one, shape in zip(adapter_names(name), ((lora.rank, into), (out, lora.rank)), strict=True):
                found.append((one, torch.from_numpy(numbers.standard_normal(shape)).to(dtype)))
    return found


def merge(model: Path, adapters: list[tuple[str, Tensor]], lora: LoraConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """The full version by torch, an operation at a time in the order of the rank."""
    pairs = dict(adapters)
    full: dict[str, Tensor] = {}
    for name, weight in weights_of(model).items():
        full[name], (down, up) = weight.to(dtype), adapter_names(name)
        if down in pairs:
            total = torch.zeros(weight.shape)
            for index in range(lora.rank):
                total = total + pairs[up].float()[:, index : index + 1] * pairs[down].float()[index]
            full[name] = (full[name].float() + total * lora.scaling).to(dtype)
    return full


def weights_of(model: Path) -> dict[str, Tensor]:
    """All tensors of a model directory."""
    found: dict[str, Tensor] = {}
    for path in sorted(model.glob("*.safetensors")):
        found |= load_file(path)
    return found


def publish_adapter(model: Path, root: Path, version: int, lora: LoraConfig) -> rollout_pb2.Policy:
    """Writes a version of adapters drawn at random, by hand, and its manifest; returns its announcement."""
    directory = root / version_name(version)
    directory.mkdir(parents=True)
    save_file(dict(draw(model, lora, version)), directory / ADAPTER_WEIGHTS)
    config = {"base_model_name_or_path": str(model), "peft_type": "LORA", "r": lora.rank, "lora_alpha": lora.alpha}
    (directory / ADAPTER_CONFIG).write_text(json.dumps(config | {"target_modules": list(lora.targets)}))
    adapter = manifest_pb2.Adapter(rank=lora.rank, alpha=lora.alpha, targets=lora.targets, base=weights_digest(model))
    return write_manifest(directory, version, model, {"adapter": adapter})


class AdapterScene:
    """A learner that publishes adapters of a small model, in a process group of one rank that the test module has made."""

    def __init__(
        self,
        root: Path,
        dtype: Literal["float32", "bfloat16"] = "float32",
        url: str | None = None,
        base: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        self.root, self.model, self.dtype = root / "weights", root / "model", getattr(torch, dtype)
        write_model(self.model, 0, DemoShape(layers=2, hidden=32, ffn=48))
        if base != torch.float32:
            tensors = {name: tensor.to(base) for name, tensor in weights_of(self.model).items()}
            save_file(tensors, self.model / "model.safetensors")
        self.registry = Registry()
        self.fence = DirectoryFence(self.root, 1)
        self.fence.acquire()
        mirror = () if url is None else (MirrorConfig(name="store", url=url),)
        config = PublishConfig(dir=self.root, dtype=dtype, form="adapter", mirror=mirror, **settings)
        self.publisher = Publisher(config, self.fence, self.model, 0, self.registry, LORA)
        self.history: list[list[tuple[str, Tensor]]] = []

    def publish(self, count: int) -> None:
        """Publishes versions, each of adapters of its own."""
        for _ in range(count):
            self.history.append(draw(self.model, LORA, len(self.history), self.dtype))
            self.publisher.publish(len(self.history), ready(self.history[-1]))
            self.publisher.wait()

    def directory(self, version: int) -> Path:
        """Directory of a version."""
        return self.root / version_name(version)

    def merged(self, version: int) -> dict[str, Tensor]:
        """The full version that a version yields, computed by torch."""
        return merge(self.model, self.history[version], LORA, self.dtype)
