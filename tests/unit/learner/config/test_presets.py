"""Presets: what a file sets wins over them, they win over defaults, and reading a written file again changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from learner.cli.run.run_file import RunFile
from learner.config import LearnerConfig, ObjectiveConfig, PublishConfig
from learner.config.presets import PRESETS
from runtime.settings import SettingsError
from tests.tools import preset_reference

REQUIRED = {
    "model": "m", "queue": {"url": "redis://x", "run": "r"}, "steps": 1, "checkpoint": {"dir": "c"},
    "publish": {"dir": "p"}, "metrics_dir": "d",
}  # fmt: skip
FILE = """
[run]
name = "r"
[model]
path = "demo"
[learner]
steps = 9
[rollout.task]
name = "sort"
"""


def learner(**values: Any) -> LearnerConfig:
    return LearnerConfig.parse({**REQUIRED, **values}, source="test")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def value(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = getattr(settings, part)
    return settings


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_read_the_same_in_a_learners_file_and_in_a_run_file(name: str, file: Path):
    run_file = RunFile.read(file, [f"learner.objective.preset={name}"])
    own = learner(objective={"preset": name})
    plan = run_file.resolve("redis://host:1/0", "r", 16)
    for key, wanted in PRESETS[name].flat().items():
        expected = None if wanted == "off" else wanted
        assert [value(one, key) for one in (own, run_file.learner, plan.learner)] == [expected] * 3


def test_steady_is_the_default_where_neither_a_preset_nor_an_objective_is_named(file: Path):
    for found in (learner(), RunFile.read(file).learner, learner(objective={"kl_coef": 0.1})):
        chosen = (found.objective.preset, found.objective.name, found.publish.average, found.lr_control.mode)
        assert chosen == ("steady", "spo", 0.9, "drift")
    own = learner(publish={**REQUIRED["publish"], "average": 0.5}, lr_control={"mode": "off"})
    assert (own.objective.spo_alpha, own.publish.average, own.lr_control.mode) == (0.1, 0.5, "off")


@pytest.mark.parametrize(
    "objective", [{"name": "asympo"}, {"name": "grpo"}, {"preset": "off"}, {"preset": "grpo-verl"}]
)
def test_who_names_an_objective_or_a_preset_gets_nothing_of_the_default(objective: dict[str, str], file: Path):
    settings = [f"learner.objective.{key}={value}" for key, value in objective.items()]
    for found in (learner(objective=objective), RunFile.read(file, settings).learner):
        assert (found.publish.average, found.lr_control.mode) == (0.0, "off")
        assert found.objective.name == objective.get("name", "grpo" if "grpo-verl" in objective.values() else "asympo")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_objective_what_it_is_and_its_source(name: str):
    preset = PRESETS[name]
    assert ObjectiveConfig.parse({"preset": name}, source="test").name == preset.objective
    assert preset.summary.endswith(".")
    assert len(preset.summary) <= 130
    assert preset.source


def test_what_the_file_sets_wins_over_the_preset_and_the_preset_over_defaults(file: Path):
    file.write_text(FILE + '[learner.objective]\npreset = "steady"\nspo_alpha = 0.3\n[learner.publish]\nkeep = 7\n')
    chosen = RunFile.read(file, ["learner.publish.average=0.5"]).learner
    assert (chosen.objective.name, chosen.objective.spo_alpha, chosen.objective.advantage) == ("spo", 0.3, "std")
    assert (chosen.publish.average, chosen.publish.keep) == (0.5, 7)
    assert (chosen.lr_control.mode, chosen.lr_control.drift_every) == ("drift", 4)


def test_settings_that_are_built_in_python_win_only_with_what_was_given():
    built = learner(
        objective=ObjectiveConfig.parse({"preset": "steady"}, source="test"),
        publish=PublishConfig(dir=Path("p"), keep=9),
    )
    assert (built.objective.spo_alpha, built.publish.average, built.publish.keep) == (0.1, 0.9, 9)
    kept = learner(objective={"preset": "steady"}, publish=PublishConfig(dir=Path("p"), average=0.0))
    assert kept.publish.average == 0.0


@pytest.mark.parametrize("overrides", [[], ["learner.publish.average=0", "learner.objective.spo_alpha=0.3"]])
def test_a_written_file_is_read_again_without_a_change(file: Path, tmp_path: Path, overrides: list[str]):
    run_file = RunFile.read(file, ["learner.objective.preset=steady", *overrides])
    run_file.write(tmp_path / "run.json")
    assert RunFile.load(tmp_path / "run.json") == run_file
    settings = run_file.resolve("redis://host:1/0", "r", 16).learner
    settings.write(tmp_path / "learner.json")
    assert LearnerConfig.load(tmp_path / "learner.json") == settings
    assert settings.publish.average == (0 if overrides else 0.9)


def test_a_bound_that_was_set_where_the_preset_has_none_is_kept_in_a_written_file(file: Path, tmp_path: Path):
    for overrides, bound in (([], None), (["learner.objective.rho_max=0.2"], 0.2)):
        run_file = RunFile.read(file, ["learner.objective.preset=asympo-paper", *overrides])
        run_file.write(tmp_path / "run.json")
        assert RunFile.load(tmp_path / "run.json").learner.objective.rho_max == bound


def test_an_unknown_preset_is_refused_with_those_that_there_are(file: Path):
    with pytest.raises(
        SettingsError, match=r"learner\.objective: preset = 'stedy': no such preset; known: asympo, .*steady"
    ):
        RunFile.read(file, ["learner.objective.preset=stedy"])


def test_another_objective_than_the_presets_is_refused(file: Path):
    overrides = ["learner.objective.preset=steady", "learner.objective.name=grpo"]
    with pytest.raises(
        SettingsError, match=r"name = 'grpo' and preset = 'steady', whose objective is 'spo': set name or"
    ):
        RunFile.read(file, overrides)
    assert RunFile.read(file, [*overrides[:1], "learner.objective.name=spo"]).learner.objective.spo_alpha == 0.1


def test_off_is_no_preset(file: Path):
    file.write_text(FILE + '[learner.objective]\npreset = "steady"\n')
    chosen = RunFile.read(file, ["learner.objective.preset=off", "learner.objective.name=grpo"]).learner
    assert (chosen.objective.preset, chosen.objective.name, chosen.publish.average) == (None, "grpo", 0.0)


def test_a_run_that_has_begun_takes_no_other_preset(file: Path, tmp_path: Path):
    run_file = RunFile.read(file, [f"run.dir={tmp_path / 'r'}", "learner.objective.preset=asympo"])
    run_file.write(tmp_path / "r" / "run.json")
    with pytest.raises(SettingsError, match=r"holds every value.* --set learner\.publish\.average=0\.9"):
        RunFile.read(tmp_path / "r", ["learner.objective.preset=steady"])
    assert RunFile.read(tmp_path / "r", ["learner.objective.preset=asympo"]).learner == run_file.learner
    freed = RunFile.read(tmp_path / "r", ["learner.objective.preset=off", "learner.objective.name=spo"])
    assert freed.learner.objective.name == "spo"


def test_the_document_has_the_presets_of_the_code():
    assert preset_reference.FILE.read_text() == preset_reference.text(), (
        "run `python -m tests.tools.preset_reference --write` and commit"
    )
