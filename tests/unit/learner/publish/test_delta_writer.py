"""Delta versions, from the publisher to the worker that rebuilds them: bit for bit, across gaps, damage and retention."""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from torch import Tensor

from learner.publish.catalog import base_of
from learner.publish.delta_writer import changes
from learner.publish.safetensors_file import bits, digest, write
from learner.storage.digests import FileDigest
from rollout.versions import rebuild
from rollout.versions.delta_patch import patch
from rollout.versions.manifest import FetchError, VersionError
from runtime.version_format import file_check
from runtime.version_format.names import versions_on_disk
from tests.tools.published import flip
from tests.tools.publishing import Scene, ready

pytestmark = pytest.mark.usefixtures("process_group")


def test_every_bit_pattern_survives(tmp_path: Path):
    """Signs of zero, NaN payloads, infinities; empty, unchanged, slightly and wholly changed tensors; far gaps."""
    draw = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randint(-(2**15), 2**15, shape, generator=draw, dtype=torch.int16).view(torch.bfloat16)

    old = {"far": noise(70_000), "whole": noise(40, 5), "same": noise(9), "none": noise(0, 4), "zero": torch.zeros(300)}
    new = {name: tensor.clone() for name, tensor in old.items()}
    new["far"][3], new["far"][69_999] = noise(1)[0], float("nan")
    new["whole"] = noise(40, 5)
    new["zero"][250] = -0.0
    found = changes(new, old)
    assert sorted(found) == ["far#gaps", "far#values", "whole", "zero#gaps", "zero#values"]
    assert found["far#gaps"].dtype == torch.uint32
    assert found["zero#gaps"].dtype == torch.uint8
    save_file(old, tmp_path / "base", metadata={"format": "pt"})
    save_file(found, tmp_path / "delta")
    save_file(new, tmp_path / "expected", metadata={"format": "pt"})
    expected = (tmp_path / "expected").read_bytes()
    patch([tmp_path / "base"], [tmp_path / "delta"])
    assert (tmp_path / "base").read_bytes() == expected
    assert digest(new) == FileDigest(len(expected), f"blake3:{blake3(expected).hexdigest()}")
    assert write(tmp_path / "ours", new) == digest(new)
    assert (tmp_path / "ours").read_bytes() == expected
    assert write(tmp_path / "ours", found) == digest(found)
    ours = load_file(tmp_path / "ours")
    assert all(torch.equal(bits(ours[name]), bits(tensor)) for name, tensor in found.items())


def test_a_chain_is_followed_step_by_step_or_all_at_once(tmp_path: Path):
    scene = Scene(tmp_path, keep=8, full_every=4)
    scene.publish(6)
    assert [base_of(scene.root, version) for version in range(6)] == [None, 0, 1, 2, None, 4]
    steady, late = scene.reader(tmp_path / "steady"), scene.reader(tmp_path / "late")
    for version in range(6):
        steady(version)
    late(3)  # joined late: 0 + three deltas
    late(5)  # missed 4, which is full: 4 + one delta
    late(5)
    assert versions_on_disk(tmp_path / "late") == [3, 5]


def test_a_reader_that_missed_deltas_that_are_gone_takes_the_next_full_version(tmp_path: Path):
    scene = Scene(tmp_path, keep=8, full_every=4)
    scene.publish(5)
    read = scene.reader(tmp_path / "cache")
    read(1)
    flip(scene.root / "weight_v000002" / "delta-00000.safetensors")
    with pytest.raises(VersionError) as refused:
        read(3)
    assert refused.value.field == "files[delta-00000.safetensors].digest"
    (scene.root / "weight_v000002").rename(tmp_path / "gone")
    with pytest.raises(
        VersionError, match=r"2, which version 3 needs, .*cannot be read.*: the next full version will do"
    ):
        read(3)
    read(4)


def test_a_damaged_copy_of_the_readers_own_is_made_again_from_the_full_version(tmp_path: Path):
    scene = Scene(tmp_path, keep=8, full_every=8)
    scene.publish(4)
    read = scene.reader(tmp_path / "cache")
    read(2)
    flip(tmp_path / "cache" / "weight_v000002" / "model-00000.safetensors")
    read(3)
    flip(tmp_path / "cache" / "weight_v000003" / "model-00000.safetensors")
    read(3)


def test_a_damaged_full_version_is_noticed_in_the_result(tmp_path: Path):
    scene = Scene(tmp_path, keep=8, full_every=8)
    scene.publish(2)
    flip(scene.root / "weight_v000000" / "model-00000.safetensors")
    with pytest.raises(VersionError) as refused:
        scene.reader(tmp_path / "cache")(1)
    assert refused.value.field == "files[model-00000.safetensors].digest"
    assert not (tmp_path / "cache" / "weight_v000001").exists()


def test_retention_never_takes_a_base_away(tmp_path: Path):
    scene = Scene(tmp_path, keep=2, full_every=4)
    scene.publish(4)
    assert versions_on_disk(scene.root) == [0, 1, 2, 3]  # 3 and 2 are kept, and need 1 and 0
    (scene.root / "pinned").mkdir()
    (scene.root / "pinned" / "000002").touch()
    scene.publish(3)
    assert versions_on_disk(scene.root) == [0, 1, 2, 4, 5, 6]
    scene.reader(tmp_path / "cache")(2)


def test_after_a_failure_the_next_version_is_full(tmp_path: Path):
    scene = Scene(tmp_path, keep=8, full_every=8)
    scene.publish(2)
    (scene.root / ".epoch_00000001" / "weight_v000002").write_text("a file where the directory should be")
    scene.publish(1)
    assert scene.registry.failures == [2]
    scene.publish(2)
    assert [base_of(scene.root, version) for version in (0, 1, 3, 4)] == [None, 0, None, 3]
    scene.reader(tmp_path / "cache")(4)


def test_weights_that_did_not_move_cost_a_manifest(tmp_path: Path):
    scene = Scene(tmp_path, keep=8, full_every=8)
    scene.publish(1)
    scene.history.append(scene.weights)
    scene.publisher.publish(2, ready(list(scene.weights.items())))
    scene.publisher.wait()
    assert [path.name for path in (scene.root / "weight_v000001").iterdir()] == ["manifest.json"]
    scene.reader(tmp_path / "cache")(1)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Version 0 is full, 1 to 3 are deltas."""
    scene = Scene(tmp_path, keep=8, full_every=8)
    scene.publish(4)
    return scene


def failing(number: int, affects: Callable[[Path], bool] = lambda path: True) -> Callable[..., Any]:
    """A shutil.copyfile that fails with an error of the disk where it reads or writes what ``affects`` says."""
    copyfile = shutil.copyfile

    def copy(source: Path, target: Path) -> Any:
        if affects(Path(source)):
            Path(target).write_bytes(b"a part")
            raise OSError(number, "the disk says no", str(source), None, str(target))
        return copyfile(source, target)

    return copy


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_refuses_no_version(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    cache = tmp_path / "cache"
    read = scene.reader(cache)
    read(1)
    with monkeypatch.context() as disk:
        disk.setattr(rebuild.shutil, "copyfile", failing(number))
        with pytest.raises(FetchError, match="the disk says no"):
            read(2)
    assert not (cache / ".building").exists(), "a part of a version takes the room"
    kept = [1] if number != errno.EIO else []  # a base that cannot be read is not one: a full disk does not say so
    assert versions_on_disk(cache) == kept
    read(2)


def test_a_base_of_its_own_that_cannot_be_read_is_made_again(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = tmp_path / "cache"
    read = scene.reader(cache)
    read(1)
    monkeypatch.setattr(rebuild.shutil, "copyfile", failing(errno.EIO, lambda path: path.parent.parent == cache))
    read(2)  # from version 0, which is published


def test_a_downloaded_base_that_cannot_be_read_is_downloaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scene = Scene(tmp_path, url=f"memory://{uuid.uuid4().hex}/run", keep=8, full_every=8)
    scene.publish(2)
    read = scene.reader(tmp_path / "cache")
    read(0)
    base, once = tmp_path / "cache" / "downloads" / "weight_v000000", iter([True])
    disk = failing(errno.EIO, lambda path: path.parent == base and next(once, False))
    monkeypatch.setattr(rebuild.shutil, "copyfile", disk)
    before = base.stat().st_ino
    read(1)
    assert next(once, None) is None
    assert base.stat().st_ino != before


def test_a_base_with_a_missing_file_is_not_waited_for(scene: Scene, tmp_path: Path):
    (scene.root / "weight_v000000" / "model-00000.safetensors").unlink()
    with pytest.raises(VersionError, match=r"^manifest.base_version: .*No such file.*next full version") as refused:
        scene.reader(tmp_path / "cache")(1)
    assert not isinstance(refused.value, FetchError)


def test_a_delta_that_cannot_be_read_now_is_no_damage(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    read, of_file = scene.reader(cache), file_check.of_file
    read(1)

    def stale(path: Path, algorithm: str) -> Any:
        if path.name.startswith("delta-"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return of_file(path, algorithm)

    with monkeypatch.context() as disk:
        disk.setattr(file_check, "of_file", stale)
        with pytest.raises(FetchError, match=r"files\[delta-00000.safetensors\]: cannot be read: .*Stale file handle"):
            read(2)
    assert versions_on_disk(cache) == [1], "a sound base was thrown away"
    read(2)


def test_what_nobody_reads_any_more_makes_room_before_the_next_version_is_made(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache = tmp_path / "cache"
    read = scene.reader(cache)
    for version in (0, 1, 2):
        read(version)
    there: list[list[int]] = []
    copyfile = shutil.copyfile

    def copy(source: Path, target: Path) -> Any:
        there.append(versions_on_disk(cache))
        return copyfile(source, target)

    scene.publish(1)
    monkeypatch.setattr(rebuild.shutil, "copyfile", copy)
    read(3)
    read(4)
    assert there[-1] == [2, 3]


def test_data_that_is_wrong_is_refused_although_another_file_cannot_be_read(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    directory = scene.root / "weight_v000000"
    (directory / "config.json").write_text("{ }")

    def broken(path: Path, algorithm: str) -> Any:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(file_check, "of_file", broken)
    with pytest.raises(VersionError, match=r"files\[config.json\].size") as refused:
        scene.reader(tmp_path / "cache")(0)
    assert not isinstance(refused.value, FetchError)
