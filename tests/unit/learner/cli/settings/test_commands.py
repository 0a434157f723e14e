"""`leeway --version`, `leeway config` and `leeway completion` as a user calls them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.settings import versions
from learner.config.presets import PRESETS
from learner.gateway.run_description import CONTRACT_REVISION
from tests.tools.runs import DEMO, REPOSITORY


def test_the_version_says_what_runs_here(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(versions, "_PACKAGES", ("torch", "no-such-package"))
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"leeway {metadata.version('leeway')} (contract revision {CONTRACT_REVISION})",
        f"Python {platform.python_version()}",
        f"torch {metadata.version('torch')}",
        "no-such-package not installed",
    ]


def test_the_configuration_of_a_file():
    result = CliRunner().invoke(app, ["config", str(DEMO), "--set", "learner.steps=3"])
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if line.startswith("learner.steps ")]
    assert line.endswith("# --set")


def test_neither_file_nor_defaults_is_an_error():
    result = CliRunner().invoke(app, ["config"])
    assert (result.exit_code, "--defaults" in result.stderr) == (2, True)


def test_the_presets_are_listed_as_they_stand_in_a_run_file():
    result = CliRunner().invoke(app, ["config", "--presets"])
    assert result.exit_code == 0
    for name, preset in PRESETS.items():
        assert f"# {name}: {preset.summary}\n# Source: {preset.source}\n" in result.output
    steady = tomllib.loads(result.output.split("# steady:")[1].split("\n\n")[0].partition("\n")[2])
    assert steady["learner"]["objective"] == {"name": "spo", "spo_alpha": 0.1, "advantage": "std"}
    rows = json.loads(CliRunner().invoke(app, ["config", "--presets", "--json"]).output)
    assert {row["name"]: row["source"] for row in rows} == {name: one.source for name, one in PRESETS.items()}
    assert next(row for row in rows if row["name"] == "steady")["settings"]["learner.publish.average"] == 0.9


def test_presets_are_not_those_of_a_file():
    result = CliRunner().invoke(app, ["config", "--presets", str(DEMO)])
    assert (result.exit_code, "--presets lists them all" in result.stderr) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str):
    result = CliRunner().invoke(app, ["completion", shell])
    assert result.exit_code == 0
    assert f"complete_{shell}" in result.output
    assert "leeway" in result.output


def test_another_shell_is_refused():
    assert CliRunner().invoke(app, ["completion", "tcsh"]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "offered"),
    [(["leeway", "st"], {"status", "stop"}), (["leeway", "fleet", "re"], {"revoke"}), (["leeway", "zz"], set())],
)
def test_the_script_completes_in_a_real_shell(tmp_path: Path, words: list[str], offered: set[str]):
    program = tmp_path / "leeway"
    main = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from learner.cli.app import main; main()"
    program.write_text(f"#!{sys.executable}\n{main}\n")
    program.chmod(0o755)
    lines = [
        CliRunner().invoke(app, ["completion", "bash"]).output,
        f"COMP_WORDS=({' '.join(words)})",
        f"COMP_CWORD={len(words) - 1}",
        "_leeway_complete leeway",
        'printf "%s\\n" "${COMPREPLY[@]}"',
        "complete -p leeway",
    ]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60, env=environment, cwd=REPOSITORY
    )
    *completed, registered = done.stdout.splitlines()
    assert {word for word in completed if word} == offered, done.stderr
    assert registered == "complete -o default -F _leeway_complete leeway"


@pytest.mark.parametrize(
    ("shell", "asked", "answer"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "leeway fleet re"}, "revoke"),
        ("fish", {"_TYPER_COMPLETE_ARGS": "leeway fleet re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "revoke"),
    ],
)
def test_what_the_other_scripts_ask_for_is_answered(shell: str, asked: dict[str, str], answer: str):
    script = CliRunner().invoke(app, ["completion", shell]).output
    assert all(name in script for name in asked)
    program = "import sys; sys.argv[0] = 'leeway'; from learner.cli.app import main; main()"
    environment = {**os.environ, **asked, "_LEEWAY_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, env=environment
    )
    assert answer in done.stdout, done.stderr
