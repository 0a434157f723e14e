"""`leeway config`: what a run would use, where each value comes from, and what is not shown."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from learner.cli.run.run_directory import RunError
from learner.cli.run.run_file import RunFile
from learner.cli.settings.effective import hidden
from learner.cli.settings.keys import tables
from learner.cli.settings.show import config_text
from runtime.settings import SettingsError
from tests.tools.runs import make_run

FILE = """
[run]
name = "r"
[model]
path = "demo"
[queue]
url = "redis://leeway:secret@host:6379/0"
[gateway.admission.quotas.tokyo]
groups_per_s = 5
[learner]
steps = 9
[[learner.publish.mirror]]
name = "tokyo"
url = "s3://tokyo/run"
url_options = { secret = "abc", endpoint = "http://s3" }
[[rollout.task]]
name = "sort"
options = { digits = 4 }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def shown(file: Path, *overrides: str) -> tuple[dict[str, tuple[Any, str]], dict[str, dict[str, Any]]]:
    content = json.loads(config_text(file, overrides, defaults=False, as_json=True))
    values = {row["key"]: (row["value"], row["from"]) for row in content["values"]}
    assert len(values) == len(content["values"])
    derived = {name: {row["key"]: row["value"] for row in rows} for name, rows in content["derived"].items()}
    return values, derived


def test_each_value_says_where_it_comes_from(file: Path):
    values, _ = shown(
        file, "learner.max_staleness=7", "rollout.task.options.digits=6", "gateway.admission.quotas.oslo={}"
    )
    assert values["learner.steps"] == (9, "file")
    assert values["learner.max_staleness"] == (7, "--set")
    assert values["learner.groups_per_step"] == (16, "default")
    assert values["rollout.task.name"] == ("sort", "file")
    assert values["rollout.task.options"] == ({"digits": 6}, "--set")
    assert values["rollout.task.label"][1] == "default"  # a validator fills it in; the file says nothing
    assert values["gateway.admission.quotas.tokyo.groups_per_s"] == (5, "file")
    assert values["gateway.admission.quotas.oslo.groups_per_s"] == (None, "--set")


def test_values_of_a_preset_are_printed_in_place_and_say_so(file: Path):
    values, derived = shown(
        file, "learner.objective.preset=steady", "learner.objective.spo_alpha=0.3", "learner.publish.keep=9"
    )
    assert values["learner.objective.name"] == ("spo", "preset")
    assert values["learner.objective.spo_alpha"] == (0.3, "--set")
    assert values["learner.publish.average"] == (0.9, "preset")
    assert values["learner.lr_control.mode"] == ("drift", "preset")
    assert values["learner.lr_control.drift_target"] == (0.4, "default")
    assert not derived["learner"].keys() & {"publish.average", "objective.name"}
    file.write_text(FILE.replace("steps = 9", "steps = 9\nlr_control.mode = 'off'\nobjective.preset = 'steady'"))
    values, _ = shown(file)
    assert values["learner.lr_control.mode"] == ("off", "file")
    assert values["learner.objective.advantage"] == ("std", "preset")


def test_several_tables_have_numbers(file: Path):
    file.write_text(FILE + '[[rollout.task]]\nname = "add"\n')
    values, _ = shown(file, "rollout.task.1.weight=3")
    assert values["rollout.task.0.name"] == ("sort", "file")
    assert values["rollout.task.1.name"] == ("add", "file")
    assert values["rollout.task.1.weight"] == (3, "--set")
    assert values["rollout.task.0.weight"] == (1, "default")


def test_what_leeway_up_fills_in_is_listed_by_process(file: Path):
    _, derived = shown(file, "learner.groups_per_step=5", "rollout.workers=2")
    gateway = derived["gateway"]
    assert gateway["admission.groups_per_step"] == 5
    assert gateway["limits.group_size"] == [8, 8]
    assert "tokenizer" in gateway["limits.vocab_size"]
    assert gateway["queue.run"] == "(chosen at the start)"
    assert "queue.timeout_s" not in gateway
    assert "listen" not in gateway
    assert derived["worker-1"]["engine.base_port"] == 30001
    assert "engine.base_port" not in derived["worker-0"]
    assert derived["learner"]["model"].endswith("/runs/r/model")


def test_secrets_are_not_shown(file: Path):
    text = config_text(file, [], defaults=False, as_json=False)
    assert "redis://leeway:***@host:6379/0" in text
    assert "secret@" not in text
    assert "abc" not in text
    assert "http://s3" in text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("queue.url", "rediss://:pw@h:1", "rediss://:***@h:1"),
        ("queue.url", "redis://h:1", "redis://h:1"),
        ("publish.mirror", [{"url_options": {"key": "A"}}], [{"url_options": {"key": "***"}}]),
        ("publish.mirror", [{"url_options": {"c": {"api_token": "t"}}}], [{"url_options": {"c": {"api_token": "***"}}}]),
        ("queue.password_file", "/p", "/p"),
        ("gateway.tls.key", "tls/gateway.key", "tls/gateway.key"),
        ("learner.micro_batch_tokens", 5, 5),
    ],
)  # fmt: skip
def test_what_is_hidden(key: str, value: Any, said: Any):
    assert hidden(key, value) == said


def test_the_text_is_toml_with_origins(file: Path):
    text = config_text(file, ["learner.steps=3"], defaults=False, as_json=False)
    (line,) = [line for line in text.splitlines() if line.startswith("learner.steps ")]
    assert line.split("#") == [f"{'learner.steps = 3':56}  ", " --set"]
    assert tomllib.loads(text)["learner"]["steps"] == 3
    assert "# queue.memory_bytes is unset" in text
    assert "\n# gateway: admission.groups_per_step = 16" in text


def test_a_runs_directory_can_be_asked_too(tmp_path: Path):
    make_run(tmp_path / "r")
    values, _ = shown(tmp_path / "r")
    assert values["learner.steps"] == (3, "file")


def test_the_defaults_are_a_commented_file_with_every_key():
    text = config_text(None, [], defaults=True, as_json=False)
    assert tomllib.loads(text)["learner"]["groups_per_step"] == 16
    rows = json.loads(config_text(None, [], defaults=True, as_json=True))
    assert {row["key"] for row in rows} == {key.path for table in tables(RunFile) for key in table.keys}
    (row,) = [row for row in rows if row["key"] == "learner.watchdog_s"]
    assert (row["type"], row["default"], row["unit"]) == ("number > 0", "unset", "seconds")


def test_a_wrong_file_and_no_file_are_errors(file: Path):
    with pytest.raises(RunError, match="--defaults"):
        config_text(None, [], defaults=False, as_json=False)
    with pytest.raises(RunError, match="not both"):
        config_text(file, [], defaults=True, as_json=False)
    with pytest.raises(SettingsError, match=r"learner\.stepz"):
        config_text(file, ["learner.stepz=1"], defaults=False, as_json=False)
