"""What every process takes on its command line: FILE, and changes on top of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from runtime.arguments import add_settings, load
from runtime.settings import Settings, SettingsError

MODULES = ("learner.gateway", "learner", "rollout")


class Part(Settings):
    name: str
    shard: tuple[int, int] = (0, 1)
    inner: dict[str, int] = Field(default={})


def parse(*arguments: str) -> Part:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    return load(Part, parser.parse_args(list(arguments)))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "part.toml"
    path.write_text('name = "shared"\n')
    return str(path)


def test_a_file_alone_is_read_as_it_is(file: str):
    assert parse(file) == Part(name="shared")


def test_what_differs_between_pods_comes_on_top_in_any_place(file: str):
    expected = Part(name="worker-3", shard=(3, 4), inner={"a": 2})
    assert parse("--set", "name=worker-3", file, "--set=shard=[3, 4]", "--set", "inner.a=2") == expected


def test_the_last_of_two_changes_holds(file: str):
    assert parse(file, "--set", "name=a", "--set", "name=b").name == "b"


def test_a_change_that_is_none_is_refused(file: str):
    with pytest.raises(SettingsError, match=r"--set 'name': expected section\.key=value"):
        parse(file, "--set", "name")


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Every process, started at once with a change to a key that it does not have: status and what it says."""
    path = tmp_path_factory.mktemp("arguments") / "empty.json"
    path.write_text(json.dumps({}))
    arguments = [str(path), "--set", "steps=8", "--set", "queue.urll=redis://nowhere:6379"]
    pipes = {"stderr": subprocess.PIPE, "text": True}
    started = {name: subprocess.Popen([sys.executable, "-m", name, *arguments], **pipes) for name in MODULES}
    ended = {name: process.communicate(timeout=60)[1] for name, process in started.items()}
    return {name: (started[name].returncode, said) for name, said in ended.items()}


@pytest.mark.parametrize("module", MODULES)
def test_each_process_reads_its_changes_and_names_the_one_that_does_not_fit(module: str, refusals):
    status, said = refusals[module]
    unknown = "queue" if module == "rollout" else "queue.urll"  # a worker knows no queue at all
    assert status == 2
    assert f"unknown key '{unknown}'" in said
    assert ("unknown key 'steps'" in said) == (module != "learner"), "the learner alone has steps"
