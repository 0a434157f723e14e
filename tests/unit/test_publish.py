"""Publication in one real process group of one rank: what lands on disk, in which order, and what a failure leaves."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from google.protobuf import json_format
from safetensors.torch import load_file

from learner.config import PublishConfig
from learner.publish import Publisher, Source
from leeway.v1 import manifest_pb2, rollout_pb2


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Registry:
    def __init__(self, running: set[int] | None = None) -> None:
        self.policies: list[rollout_pb2.Policy] = []
        self.failures: list[tuple[int, Exception]] = []
        self.running = running or set()

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        self.policies.append(policy)

    def not_published(self, version: int, error: Exception) -> None:
        self.failures.append((version, error))

    def in_use(self) -> set[int]:
        return self.running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "qwen3"}')
    (directory / "tokenizer.json").write_text("{}")
    return directory


def shard(value: float) -> list[tuple[str, torch.Tensor]]:
    return [("model.norm.weight", torch.full((4,), value)), ("lm_head.weight", torch.full((2, 4), value))]


def test_a_version_is_whole_and_its_manifest_tells_the_truth(tmp_path: Path, model: Path):
    registry = Registry()
    publisher = Publisher(PublishConfig(dir=tmp_path / "w"), Source(model, epoch=3), 7, registry)
    publisher.publish(40, shard(1.5))
    publisher.wait()
    directory = tmp_path / "w" / "weight_v000007"
    raw = (directory / "manifest.json").read_bytes()
    manifest = json_format.Parse(raw, manifest_pb2.Manifest())
    assert (manifest.version, manifest.step, manifest.epoch) == (7, 40, 3)
    assert {item.name for item in manifest.files} == {path.name for path in directory.iterdir()} - {"manifest.json"}
    for item in manifest.files:
        content = (directory / item.name).read_bytes()
        assert (item.size, item.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert manifest.config_sha256 == hashlib.sha256((model / "config.json").read_bytes()).hexdigest()
    index = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == {"model.norm.weight", "lm_head.weight"}
    assert load_file(directory / index["lm_head.weight"])["lm_head.weight"].tolist() == [[1.5] * 4] * 2
    assert (tmp_path / "w" / "latest").read_text() == "7"
    assert registry.policies[0].manifest_sha256 == hashlib.sha256(raw).hexdigest()
    assert registry.policies[0].uri == directory.resolve().as_uri()


def test_retention_keeps_the_newest_every_nth_and_what_a_fleet_runs(tmp_path: Path, model: Path):
    config = PublishConfig(dir=tmp_path / "w", keep=2, keep_every=5)
    publisher = Publisher(config, Source(model, epoch=1), 0, Registry(running={3}))
    for step in range(9):
        publisher.publish(step, shard(step))
    publisher.wait()
    kept = sorted(int(path.name[8:]) for path in (tmp_path / "w").glob("weight_v*"))
    assert kept == [0, 3, 5, 7, 8]


def test_a_failed_write_leaves_the_previous_version_current(tmp_path: Path, model: Path):
    registry = Registry()
    publisher = Publisher(PublishConfig(dir=tmp_path / "w"), Source(model, epoch=1), 0, registry)
    publisher.publish(1, shard(1))
    publisher.wait()
    (tmp_path / "w" / ".writing_000001").write_text("a file where the directory should be")
    publisher.publish(2, shard(2))
    publisher.wait()
    assert [version for version, _ in registry.failures] == [1]
    assert (tmp_path / "w" / "latest").read_text() == "0"
    publisher.publish(3, shard(3))
    publisher.wait()
    assert (tmp_path / "w" / "latest").read_text() == "2"
    assert [policy.version for policy in registry.policies] == [0, 2]


def test_bfloat16_halves_the_bytes_and_leftovers_are_removed(tmp_path: Path, model: Path):
    (tmp_path / "w" / ".writing_000009").mkdir(parents=True)
    publisher = Publisher(PublishConfig(dir=tmp_path / "w", dtype="bfloat16"), Source(model, epoch=1), 0, Registry())
    publisher.publish(1, shard(1))
    publisher.wait()
    tensors = load_file(tmp_path / "w" / "weight_v000000" / "model-00000.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert not list((tmp_path / "w").glob(".writing_*"))
