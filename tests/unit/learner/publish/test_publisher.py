"""Publication in one real process group of one rank: what lands on disk, in which order, and what a failure leaves.

Also what a learner that was replaced and thawed can still do: nothing.
"""

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from google.protobuf import json_format
from safetensors.torch import load_file

from learner.config import MirrorConfig, PublishConfig
from learner.publish.catalog import base_of
from learner.publish.mirrors import MirrorOutcome
from learner.publish.publisher import Publisher
from learner.publish.reader import VersionReader
from learner.storage.fence import DirectoryFence
from leeway.v1 import manifest_pb2, rollout_pb2
from runtime.version_format.names import versions_on_disk
from tests.tools.publishing import Ready, ready

pytestmark = pytest.mark.usefixtures("process_group")


class Registry:
    def __init__(self, running: set[int] | None = None) -> None:
        self.policies: list[rollout_pb2.Policy] = []
        self.failures: list[tuple[int, Exception]] = []
        self.replaced: list[tuple[int, int]] = []
        self.outcomes: list[MirrorOutcome] = []
        self.running = running or set()

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        self.policies.append(policy)

    def not_published(self, version: int, error: Exception) -> None:
        self.failures.append((version, error))

    def coalesced(self, step: int, replaced: int) -> None:
        self.replaced.append((step, replaced))

    def mirrored(self, outcomes: Sequence[MirrorOutcome]) -> None:
        self.outcomes += outcomes

    def in_use(self) -> set[int]:
        return self.running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "qwen3"}')
    (directory / "tokenizer.json").write_text("{}")
    return directory


def shard(value: float) -> Callable[[int], Ready]:
    return ready([("model.norm.weight", torch.full((4,), value)), ("lm_head.weight", torch.full((2, 4), value))])


def make(root: Path, model: Path, registry: Registry, first: int = 0, epoch: int = 1, **settings: Any) -> Publisher:
    fence = DirectoryFence(root, epoch)
    fence.acquire()
    return Publisher(PublishConfig(dir=root, **settings), fence, model, first, registry)


def test_a_version_is_whole_and_its_manifest_tells_the_truth(tmp_path: Path, model: Path):
    registry = Registry()
    publisher = make(tmp_path / "w", model, registry, first=7, epoch=3)
    publisher.publish(40, shard(1.5))
    publisher.wait()
    directory = tmp_path / "w" / "weight_v000007"
    raw = (directory / "manifest.json").read_bytes()
    manifest = json_format.Parse(raw, manifest_pb2.Manifest())
    assert (manifest.version, manifest.step, manifest.epoch) == (7, 40, 3)
    assert {item.name for item in manifest.files} == {path.name for path in directory.iterdir()} - {"manifest.json"}
    for item in manifest.files:
        content = (directory / item.name).read_bytes()
        assert (item.size, item.digest) == (len(content), f"blake3:{blake3(content).hexdigest()}")
    assert manifest.config_sha256 == hashlib.sha256((model / "config.json").read_bytes()).hexdigest()
    index = json.loads((directory / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == {"model.norm.weight", "lm_head.weight"}
    assert load_file(directory / index["lm_head.weight"])["lm_head.weight"].tolist() == [[1.5] * 4] * 2
    assert (tmp_path / "w" / "latest").read_text() == "7"
    assert registry.policies[0].manifest_sha256 == hashlib.sha256(raw).hexdigest()
    assert registry.policies[0].uri == directory.resolve().as_uri()


def test_retention_keeps_the_newest_every_nth_and_what_a_fleet_runs(tmp_path: Path, model: Path):
    publisher = make(tmp_path / "w", model, Registry(running={3}), keep=2, keep_every=5)
    for step in range(9):
        publisher.publish(step, shard(step))
        publisher.wait()
    kept = sorted(int(path.name[8:]) for path in (tmp_path / "w").glob("weight_v*"))
    assert kept == [0, 3, 5, 7, 8]


def test_a_failed_write_leaves_the_previous_version_current(tmp_path: Path, model: Path):
    registry = Registry()
    publisher = make(tmp_path / "w", model, registry)
    publisher.publish(1, shard(1))
    publisher.wait()
    (tmp_path / "w" / ".epoch_00000001" / "weight_v000001").write_text("a file where the directory should be")
    publisher.publish(2, shard(2))
    publisher.wait()
    assert [version for version, _ in registry.failures] == [1]
    assert (tmp_path / "w" / "latest").read_text() == "0"
    publisher.publish(3, shard(3))
    publisher.wait()
    assert (tmp_path / "w" / "latest").read_text() == "2"
    assert [policy.version for policy in registry.policies] == [0, 2]


def test_bfloat16_halves_the_bytes(tmp_path: Path, model: Path):
    publisher = make(tmp_path / "w", model, Registry(), dtype="bfloat16")
    publisher.publish(1, shard(1))
    publisher.wait()
    tensors = load_file(tmp_path / "w" / "weight_v000000" / "model-00000.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_a_zombie_publishes_nothing_and_leaves_the_pointer(tmp_path: Path, model: Path):
    root = tmp_path / "w"
    theirs, ours = Registry(), Registry()
    zombie = make(root, model, theirs)
    zombie.publish(1, shard(1))
    zombie.wait()
    living = make(root, model, ours, first=1, epoch=2)
    zombie.publish(2, shard(2))  # the same number
    zombie.wait()
    living.publish(1, shard(3))
    living.wait()
    zombie.publish(3, shard(4))
    zombie.wait()
    assert [version for version, _ in theirs.failures] == [1, 2]
    assert versions_on_disk(root) == [0, 1]
    assert (root / "latest").read_text() == "1"
    assert load_file(root / "weight_v000001" / "model-00000.safetensors")["model.norm.weight"].tolist() == [3.0] * 4


def test_a_zombie_frozen_before_the_registration_leaves_an_orphan(tmp_path: Path, model: Path):
    """The version is on disk, the queue refuses it: the run ends, and the next learner numbers its own above it."""

    class Fenced(Registry):
        def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
            raise RuntimeError("FENCED")

    root = tmp_path / "w"
    zombie = make(root, model, Fenced())
    zombie.publish(1, shard(1))
    with pytest.raises(RuntimeError, match="FENCED"):
        zombie.wait()
    registry = Registry()
    living = make(root, model, registry, first=max(versions_on_disk(root)) + 1, epoch=2, keep=2)
    for step in (1, 2, 3):
        living.publish(step, shard(step))
        living.wait()
    assert [policy.version for policy in registry.policies] == [1, 2, 3]
    assert versions_on_disk(root) == [2, 3]  # the orphan went with age


def test_a_zombies_retention_spares_the_living(tmp_path: Path, model: Path):
    """Frozen while it asks what fleets run, thawed when its window is long past."""
    root = tmp_path / "w"

    class Frozen(Registry):
        def in_use(self) -> set[int]:
            if self.policies[-1].version == 2:
                make(root, model, Registry(), first=3, epoch=2, keep=4)
            return set()

    zombie = make(root, model, Frozen(), keep=2)
    for step in range(3):
        zombie.publish(step, shard(step))
        zombie.wait()
    assert versions_on_disk(root) == [0, 1, 2]
    assert zombie.version == 2


class Slow(Registry):
    """A registry whose announcements end when the test says so, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: queue.Queue[int] = queue.Queue()
        self.go_on: queue.Queue[None] = queue.Queue()

    def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
        self.begun.put(policy.version)
        self.go_on.get(timeout=60)
        super().published(policy, seconds)


def test_training_never_waits_and_the_newest_weights_are_published_when_the_publisher_is_free(
    tmp_path: Path, model: Path
):
    registry = Slow()
    publisher = make(tmp_path / "w", model, registry)
    publisher.publish(1, shard(1))
    assert registry.begun.get(timeout=60) == 0
    for step in (2, 3, 4):
        publisher.publish(step, shard(step))  # returns, though the first publication cannot end
    assert (publisher.version, registry.replaced) == (1, [(3, 2), (4, 3)])
    registry.go_on.put(None)
    assert registry.begun.get(timeout=60) == 1  # without a further step
    publisher.publish(5, shard(5))
    registry.go_on.put(None)
    registry.go_on.put(None)
    publisher.wait()
    assert [(policy.version, policy.step) for policy in registry.policies] == [(0, 1), (1, 4), (2, 5)]
    assert registry.replaced == [(3, 2), (4, 3)]
    tensors = load_file(tmp_path / "w" / "weight_v000001" / "model-00000.safetensors")
    assert tensors["model.norm.weight"].tolist() == [4.0] * 4


def test_a_delta_is_of_the_version_before_it_whatever_was_replaced_between(tmp_path: Path, model: Path):
    registry = Slow()
    publisher = make(tmp_path / "w", model, registry, full_every=4)
    for step in (1, 2, 3):
        publisher.publish(step, shard(step))
    registry.go_on.put(None)
    registry.go_on.put(None)
    publisher.wait()
    assert [policy.step for policy in registry.policies] == [1, 3]
    assert base_of(tmp_path / "w", 1) == 0
    assert VersionReader(tmp_path / "w", 1).floats("lm_head.weight").tolist() == [3.0] * 8


def test_what_goes_wrong_in_the_background_is_raised_in_the_loop(tmp_path: Path, model: Path):
    class Fenced(Slow):
        def published(self, policy: rollout_pb2.Policy, seconds: float) -> None:
            super().published(policy, seconds)
            raise RuntimeError("FENCED")

    registry = Fenced()
    publisher = make(tmp_path / "w", model, registry)
    publisher.publish(1, shard(1))
    publisher.publish(2, shard(2))
    registry.go_on.put(None)
    assert [registry.begun.get(timeout=60) for _ in range(2)] == [0, 1]  # the first has failed
    with pytest.raises(RuntimeError, match="FENCED"):
        publisher.publish(3, shard(3))
    registry.go_on.put(None)
    with pytest.raises(RuntimeError, match="FENCED"):
        publisher.wait()


def test_versions_that_were_never_announced_do_not_count_among_those_kept(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    """Three of four publications fail after the rename; the newest two that fleets can know of stay."""
    bucket = tmp_path / "bucket"
    registry = Registry()
    store = MirrorConfig(name="store", url=bucket.as_uri())
    publisher = make(tmp_path / "w", model, registry, keep=2, mirror=(store,))
    replace_text = DirectoryFence.replace_text

    def refused(self: DirectoryFence, name: str, text: str) -> None:
        if text in ("2", "3", "4"):
            raise OSError("no space left on device")
        replace_text(self, name, text)

    monkeypatch.setattr(DirectoryFence, "replace_text", refused)
    for step in range(6):
        publisher.publish(step, shard(step))
        publisher.wait()
    assert [version for version, _ in registry.failures] == [2, 3, 4]
    assert versions_on_disk(tmp_path / "w") == [1, 5]
    assert versions_on_disk(bucket) == [1, 5]


def test_a_version_says_where_it_is(tmp_path: Path, model: Path):
    registry = Registry()
    home = MirrorConfig(name="home", url=(tmp_path / "bucket").as_uri())
    publisher = make(tmp_path / "w", model, registry, mirror=(home,))
    publisher.publish(1, shard(1))
    publisher.wait()
    (policy,) = registry.policies
    assert [(place.name, place.uri) for place in policy.locations] == [
        ("local", (tmp_path / "w" / "weight_v000000").as_uri()),
        ("home", (tmp_path / "bucket" / "weight_v000000").as_uri()),
    ]
    assert policy.uri == policy.locations[1].uri


def test_a_publication_that_takes_too_long_is_given_up(tmp_path: Path, model: Path):
    """Its registry does not answer: the end of the process waits so long and no longer."""
    registry = Slow()
    publisher = make(tmp_path / "w", model, registry)
    publisher.publish(1, shard(1))
    ticks: list[int] = []
    publisher.wait(0.05, lambda: ticks.append(1))
    assert ticks  # the watchdog hears of the wait
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "publisher")
    registry.go_on.put(None)
    publisher.wait()


class Memory:
    """Makes exports of one number and knows which of them are held."""

    def __init__(self) -> None:
        self.exports: list[Ready] = []
        self.most = 0

    @property
    def held(self) -> list[int]:
        return [index for index, export in enumerate(self.exports) if not export.released]

    def __call__(self, version: int) -> Ready:
        self.exports.append(ready([("lm_head.weight", torch.full((4,), float(len(self.exports))))])(version))
        self.most = max(self.most, len(self.held))
        return self.exports[-1]


@pytest.mark.parametrize(("full_every", "most"), [(1, 1), (4, 2)])
def test_weights_are_let_go_when_they_are_written_or_replaced(tmp_path: Path, model: Path, full_every: int, most: int):
    """Besides a version that is being written there is one that waits, and the base of the next delta."""
    registry, memory = Slow(), Memory()
    publisher = make(tmp_path / "w", model, registry, full_every=full_every)
    publisher.publish(1, memory)
    assert registry.begun.get(timeout=60) == 0  # it is written, but its announcement does not end
    publisher.publish(2, memory)
    publisher.publish(3, memory)
    assert memory.most == most
    registry.go_on.put(None)
    registry.go_on.put(None)
    publisher.wait()
    assert memory.most == most
    assert [export.released for export in memory.exports] == [1, 1, int(full_every == 1)]


def test_a_version_that_cannot_be_written_lets_its_weights_go(tmp_path: Path, model: Path):
    registry, memory = Registry(), Memory()
    publisher = make(tmp_path / "w", model, registry, full_every=4)
    for step in range(4):
        if step == 1:
            (tmp_path / "w" / ".epoch_00000001" / "weight_v000001").write_text("a file where the directory should be")
        publisher.publish(step, memory)
        publisher.wait()
        assert memory.held == ([] if step == 1 else [step])
    assert [version for version, _ in registry.failures] == [1]
    assert [export.released for export in memory.exports] == [1, 1, 1, 0]
