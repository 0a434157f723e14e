"""Copies of the versions in several places: one that is slow or broken holds up nothing but itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from learner.config import MirrorConfig, PublishConfig
from runtime.settings import SettingsError
from runtime.version_format.names import versions_on_disk
from tests.tools.publishing import Scene

pytestmark = pytest.mark.usefixtures("process_group")


def mirror(directory: Path, name: str, **settings: Any) -> MirrorConfig:
    return MirrorConfig(name=name, url=(directory / name).as_uri(), **settings)


def places(scene: Scene, version: int) -> list[str]:
    return [place.name for place in scene.registry.policies[version].locations]


def intercept(monkeypatch: pytest.MonkeyPatch, place: Path, before: Callable[[str], None]) -> None:
    """Calls ``before`` with the path of each file that is copied below ``place``."""
    put_file = LocalFileSystem.put_file

    def put(store: Any, source: str, target: str, *arguments: Any, **options: Any) -> Any:
        if target.startswith(str(place)):
            before(target)
        return put_file(store, source, target, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "put_file", put)


def test_fleets_of_two_regions_read_each_its_own_copy(tmp_path: Path):
    scene = Scene(tmp_path, keep=3, full_every=3, mirror=(mirror(tmp_path, "oslo"), mirror(tmp_path, "tokyo")))
    scene.publish(5)
    assert places(scene, 4) == ["local", "oslo", "tokyo"]
    assert scene.registry.policies[4].uri == scene.registry.policies[4].locations[1].uri
    for name in ("oslo", "tokyo"):
        read = scene.reader(tmp_path / f"cache-{name}", (tmp_path / name).as_uri())
        for version in (2, 3, 4):
            read(version)
        assert versions_on_disk(tmp_path / name) == versions_on_disk(scene.root)
        sizes = [one.size for one in scene.registry.outcomes if one.mirror == name]
        assert len(sizes) == 5
        assert min(sizes) > 0


def test_a_region_that_is_too_slow_is_left_out_until_it_is_done_and_then_catches_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    go_on = threading.Event()
    ended = threading.Event()

    def held(target: str) -> None:
        assert go_on.wait(60)
        ended.set()

    slow = mirror(tmp_path, "tokyo", wait_s=0.05)
    scene = Scene(tmp_path, keep=9, full_every=9, mirror=(mirror(tmp_path, "oslo"), slow))
    scene.publish(1)
    with monkeypatch.context() as patched:
        intercept(patched, tmp_path / "tokyo", held)
        scene.publish(2)
        assert places(scene, 1) == places(scene, 2) == ["local", "oslo"]
        failed = [one for one in scene.registry.outcomes if one.error]
        assert [(one.mirror, one.stage, one.version) for one in failed] == [
            ("tokyo", "copy", 1), ("tokyo", "remove", 1), ("tokyo", "copy", 2), ("tokyo", "remove", 2),
        ]  # fmt: skip
        assert "wait_s = 0.05" in failed[0].error
        assert "busy" in failed[2].error
        go_on.set()
        assert ended.wait(60)
    for thread in threading.enumerate():
        if thread.name == "mirror-tokyo":
            thread.join(60)
    object.__setattr__(scene.publisher._mirrors._lanes[1].mirror, "wait_s", 60.0)
    scene.publish(1)
    assert places(scene, 3) == ["local", "oslo", "tokyo"]
    scene.reader(tmp_path / "cache", (tmp_path / "tokyo").as_uri())(3)  # three deltas, two of which it had missed
    assert versions_on_disk(tmp_path / "tokyo") == [0, 1, 2, 3]


def test_what_a_killed_learner_has_half_copied_is_replaced_and_leaves_later(tmp_path: Path):
    scene = Scene(tmp_path, keep=2, mirror=(mirror(tmp_path, "oslo"),))
    scene.publish(1)
    half = tmp_path / "oslo" / "weight_v000001"
    half.mkdir()
    (half / "model-00000.safetensors").write_bytes(b"half")
    scene.publish(1)  # the number is taken again: it was never announced
    scene.reader(tmp_path / "cache", (tmp_path / "oslo").as_uri())(1)
    half.joinpath("manifest.json").unlink()
    scene.publish(3)
    assert versions_on_disk(tmp_path / "oslo") == versions_on_disk(scene.root) == [3, 4]


@pytest.mark.parametrize(
    ("names", "said"), [(["local"], "learner's own disk"), (["a", "a"], "a name of its own"), (["A"], "name")]
)
def test_names_of_mirrors(tmp_path: Path, names: list[str], said: str):
    values = {"dir": tmp_path, "mirror": [{"name": name, "url": "s3://b/x"} for name in names]}
    with pytest.raises(SettingsError, match=said):
        PublishConfig.parse(values, "test")
