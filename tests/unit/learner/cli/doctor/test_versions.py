"""Installed releases compared with the tested ones, and packages that settings need."""

from __future__ import annotations

import re

import pytest

from learner.cli.doctor import versions
from tests.tools.doctor_site import Site, bad
from tests.tools.runs import REPOSITORY


@pytest.mark.parametrize(
    ("installed", "state"),
    [("2.13.0+cpu", ""), ("2.13.0a0+nv25.11", ""), ("2.13.1", "warn"), ("2.9.0", "fail"), (None, "fail")],
)
def test_a_release_that_was_not_tested(site: Site, monkeypatch: pytest.MonkeyPatch, installed: str | None, state: str):
    real = versions._installed
    monkeypatch.setattr(versions, "_installed", lambda name: installed if name == "torch" else real(name))
    found = bad(versions.versions(site.read("learner")))
    assert [one.split(":")[0] for one in found] == ([f"{state} torch"] if state else [])


def test_the_tested_releases_are_those_of_the_constraints():
    text = (REPOSITORY / "constraints.txt").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)
    found = {name: tuple(release for pinned, release in pins if pinned == name) for name in versions.TESTED}
    assert found == versions.TESTED


@pytest.mark.parametrize(
    ("installed", "state"), [("0.16.1", ""), ("0.19.2", ""), ("0.19.3", "warn"), ("0.16.2", "warn"), ("0.17.0", "fail")]
)
def test_either_tested_release_of_megatron_is_good(installed: str, state: str):
    found = versions.compare_release("megatron-core", installed)
    assert found.state == (state or "ok")
    assert not state or "tested with 0.16.1 and 0.19.2" in found.found


def test_packages_that_settings_ask_for(site: Site, monkeypatch: pytest.MonkeyPatch):
    real = versions._installed
    absent = {"wandb", "opentelemetry-exporter-otlp-proto-http"}
    monkeypatch.setattr(versions, "_installed", lambda name: None if name in absent else real(name))
    examined = site.read("learner", loggers=["wandb"], traces={"endpoint": "http://c:4318"})
    assert [one.split(":")[0] for one in bad(versions.versions(examined))] == ["fail wandb", "fail traces"]
