"""Versions in a store that is not this file system, and workers that read them there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from learner.config import MirrorConfig
from learner.publish.mirror import Mirror
from learner.storage.fence import DirectoryFence, SupersededError
from rollout.versions.manifest import VersionError
from runtime.version_format.names import versions_on_disk
from tests.tools.publishing import Scene

pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/a bucket"
        return
    name = f"/bucket-{uuid.uuid4().hex}"
    yield f"memory:/{name}/run"
    fsspec.filesystem("memory").rm(name, recursive=True)


def names(url: str) -> list[str]:
    store, root = fsspec.core.url_to_fs(url)
    return sorted(Path(entry).name for entry in store.ls(root, detail=False))


def test_full_versions_and_deltas_are_read_where_they_were_put(tmp_path: Path, url: str):
    scene = Scene(tmp_path, keep=3, full_every=3, url=url)
    scene.publish(6)
    assert scene.registry.policies[5].uri.startswith(url.partition(":")[0] + ":")
    steady, late = scene.reader(tmp_path / "steady"), scene.reader(tmp_path / "late")
    for version in (3, 4, 5):
        steady(version)
    late(5)  # 3 and two deltas
    assert versions_on_disk(scene.root) == [3, 4, 5]
    assert names(url) == ["latest", "weight_v000003", "weight_v000004", "weight_v000005"]
    store, root = fsspec.core.url_to_fs(url)
    assert store.cat_file(f"{root}/latest") == b"5"


def test_what_is_not_there_or_damaged_there_is_refused(tmp_path: Path, url: str):
    scene = Scene(tmp_path, keep=3, url=url)
    scene.publish(2)
    read = scene.reader(tmp_path / "cache")
    store, root = fsspec.core.url_to_fs(url)
    path = f"{root}/weight_v000001/model-00000.safetensors"
    content = bytearray(store.cat_file(path))
    content[-1] ^= 1
    store.pipe_file(path, bytes(content))
    with pytest.raises(VersionError) as refused:
        read(1)
    assert refused.value.field == "files[model-00000.safetensors].digest"
    store.rm(f"{root}/weight_v000000/manifest.json")
    with pytest.raises(VersionError) as refused:
        read(0)
    assert refused.value.field == ("policy.uri" if url.startswith("memory") else "manifest.json")


@pytest.mark.parametrize("url", ["memory"], indirect=True)
def test_a_version_is_mended_when_it_is_fetched_again(tmp_path: Path, url: str):
    scene = Scene(tmp_path, keep=3, url=url)
    scene.publish(1)
    read = scene.reader(tmp_path / "cache")
    read(0)
    (tmp_path / "cache" / "downloads" / "weight_v000000" / "config.json").unlink()
    read(0)


def test_a_zombie_commits_nothing_there(tmp_path: Path, url: str):
    scene = Scene(tmp_path, keep=3, url=url)
    scene.publish(2)
    DirectoryFence(scene.root, 2).acquire()
    mirror = Mirror(MirrorConfig(name="store", url=url), scene.fence)
    store, root = fsspec.core.url_to_fs(url)
    store.rm(f"{root}/weight_v000001", recursive=True)
    with pytest.raises(SupersededError):
        mirror.complete(1, set())
    assert not store.exists(f"{root}/weight_v000001/manifest.json")
    with pytest.raises(SupersededError):
        mirror.retain(set(), 1)
    assert store.exists(f"{root}/weight_v000000/manifest.json")


def test_a_store_that_fails_is_left_out_and_catches_up_with_the_next_version(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
):
    """Clients raise what they like. The next version is a delta: what it is built on is copied before it."""
    scene = Scene(tmp_path, keep=3, full_every=3, url=url)
    scene.publish(1)
    store = type(fsspec.core.url_to_fs(url)[0])

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("SlowDown")

    with monkeypatch.context() as broken:
        broken.setattr(store, "put_file", refuse)
        scene.publish(1)
    assert scene.registry.failures == []
    assert [place.name for place in scene.registry.policies[1].locations] == ["local"]
    [_, failed] = scene.registry.outcomes
    assert (failed.mirror, failed.stage, failed.version) == ("store", "copy", 1)
    assert "SlowDown" in failed.error
    scene.publish(1)
    assert [place.name for place in scene.registry.policies[2].locations] == ["local", "store"]
    scene.reader(tmp_path / "cache")(2)
    assert names(url) == ["latest", "weight_v000000", "weight_v000001", "weight_v000002"]


def test_a_scheme_without_a_client_is_named(tmp_path: Path):
    with pytest.raises(OSError, match=r"nowhere://bucket: ValueError: Protocol not known: nowhere"):
        Mirror(MirrorConfig(name="store", url="nowhere://bucket"), DirectoryFence(tmp_path, 1))
