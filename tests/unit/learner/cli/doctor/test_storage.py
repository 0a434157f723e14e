"""Disks that are full, slow, read-only or out of inodes."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from learner.cli.doctor import storage
from tests.tools.doctor_site import Site, bad

_Usage = namedtuple("_Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(1 << 40, ""), (1_300_000_000, "warn"), (1 << 20, "fail")])
def test_free_space_for_checkpoints_and_versions(site: Site, monkeypatch: pytest.MonkeyPatch, free: int, state: str):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: _Usage(1 << 41, 0, free))
    monkeypatch.setattr(storage, "write_speed", lambda _: 1e9)
    found = bad(storage.storage(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ([f"{state} disk"] if state else [])


@pytest.mark.parametrize(("average", "size"), [(0.0, "16.0 MB"), (0.9, "20.0 MB")])
def test_a_checkpoint_holds_the_average_of_the_weights(
    site: Site, monkeypatch: pytest.MonkeyPatch, average: float, size: str
):
    monkeypatch.setattr(storage, "write_speed", lambda _: 1e9)
    monkeypatch.setattr(storage, "parameters", lambda _: 1_000_000)
    found = [one.found for one in storage.storage(site.read("learner", f"publish.average={average}"))]
    assert any(f"needed: 3 checkpoints of {size} + 6 versions of 4.0 MB" in text for text in found)


def test_a_checkpoint_holds_the_adapters_alone(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "write_speed", lambda _: 1e9)
    monkeypatch.setattr(storage, "parameters", lambda _: 1_000_000)
    monkeypatch.setattr(storage, "adapter_count", lambda *_: 100_000)
    for form, size in (("merged", "4.0 MB"), ("adapter", "400.0 kB")):
        settings = site.read("learner", "lora.rank=4", "lora.alpha=8", f"publish.form={form}")
        found = [one.found for one in storage.storage(settings)]
        assert any(f"needed: 3 checkpoints of 2.0 MB + 6 versions of {size}" in text for text in found), found


def test_a_disk_on_which_a_checkpoint_takes_minutes(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "write_speed", lambda _: 100.0)
    found = bad(storage.storage(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ["warn disk speed"] * 2


def test_a_disk_that_is_full_is_a_finding(site: Site, monkeypatch: pytest.MonkeyPatch):
    def full(_: Path) -> float:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write_speed", full)
    found = bad(storage.storage(site.read("learner")))
    assert [(one.split(":")[0], "No space left on device" in one) for one in found] == [("fail disk speed", True)] * 2


def test_the_speed_is_measured_and_nothing_is_left(tmp_path: Path):
    assert 1e5 < storage.write_speed(tmp_path) < 1e12
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_a_file(site: Site):
    (site.root / "checkpoints").write_text("")
    assert "checkpoints: Not a directory" in bad(storage.storage(site.read("learner")))[0]


def test_inodes_that_are_used_up(site: Site, monkeypatch: pytest.MonkeyPatch):
    full = namedtuple("_Files", "f_files f_favail")(1000, 12)
    monkeypatch.setattr(storage.os, "statvfs", lambda _: full)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: _Usage(1 << 41, 0, 1 << 40))
    assert any("12 inodes left" in one for one in bad(storage.storage(site.read("learner"))))
