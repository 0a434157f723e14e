"""`leeway prepare`: a run's directory for a scheduler, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.up.scheduled import prepare_scheduled
from learner.config import GatewayConfig, LearnerConfig
from learner.queue.errors import QueueError
from rollout.config import WorkerConfig
from rollout.data.demo_model import write_model
from runtime.settings import SettingsError

FILE = """
[run]
name = "r"
[model]
path = "{model}"
[learner]
steps = 9
[rollout]
workers = 2
[rollout.task]
name = "sort"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", 0)
    path = tmp_path / "r.toml"
    path.write_text(FILE.format(model=tmp_path / "model"))
    return path


def prepared(file: Path, directory: Path, *overrides: str) -> list[Path]:
    settings = [f"run.dir={directory}", "gateway.listen=node-1:50051", "gateway.insecure=true", *overrides]
    return prepare_scheduled(file, settings, "node-1:6379")


def test_every_process_has_a_settings_file_that_names_the_same_places(file: Path, tmp_path: Path):
    files = prepared(file, tmp_path / "run")
    assert [path.name for path in files] == [
        "redis.conf", "gateway.json", "learner.json", "worker-0.json", "worker-1.json"
    ]  # fmt: skip
    gateway, learner = GatewayConfig.load(files[1]), LearnerConfig.load(files[2])
    workers = [WorkerConfig.load(path) for path in files[3:]]
    assert gateway.queue == learner.queue
    assert learner.queue.url == "redis://node-1:6379/0"
    assert {worker.gateway for worker in workers} == {gateway.listen} == {"node-1:50051"}
    assert gateway.admission.max_queued_bytes < 64 << 30
    token = workers[0].token_file
    assert token is not None
    assert token.stat().st_mode & 0o077 == 0
    assert "local" in json.loads(gateway.identities_file.read_text())


def test_the_server_listens_where_others_look_for_it_with_the_password_that_they_read(file: Path, tmp_path: Path):
    conf = prepared(file, tmp_path / "run")[0]
    lines = dict(line.split(" ", 1) for line in conf.read_text().splitlines())
    password = LearnerConfig.load(tmp_path / "run/config/learner.json").queue.password_file
    assert password is not None
    assert (lines["bind"], lines["port"], lines["appendfsync"]) == ("node-1", "6379", "always")
    assert lines["requirepass"] == password.read_text().strip()
    assert [path.stat().st_mode & 0o077 for path in (conf, password)] == [0, 0]


def test_a_run_that_is_started_again_keeps_its_secrets_and_moves_to_another_node(file: Path, tmp_path: Path):
    prepared(file, tmp_path / "run", "learner.steps=12")
    run = RunDirectory.existing(tmp_path / "run")
    before = (run.secret("local").read_text(), (run.redis / "password").read_text(), run.identity("r"))
    prepare_scheduled(tmp_path / "run", ["gateway.listen=node-7:50051", "rollout.workers=1"], "node-7:6379")
    assert (run.secret("local").read_text(), (run.redis / "password").read_text(), run.identity("r")) == before
    learner = LearnerConfig.load(run.config / "learner.json")
    assert (learner.steps, learner.queue.url) == (12, "redis://node-7:6379/0")
    assert WorkerConfig.load(run.config / "worker-0.json").gateway == "node-7:50051"


@pytest.mark.parametrize(
    ("overrides", "redis", "error", "message"),
    [
        (["model.path=demo"], "node-1:6379", RunError, 'model.path = "demo": that model is made by `leeway up`'),
        ([], None, RunError, 'queue.url = "embedded"'),
        ([], "node-1", QueueError, "expected HOST:PORT"),
        ([], "node-1:70000", QueueError, "expected HOST:PORT"),
        (["learner.parallel.tensor=3"], "node-1:6379", SettingsError, "learner.parallel.tensor = 3"),
    ],
)
def test_what_cannot_be_started_elsewhere_is_refused(
    file: Path, tmp_path: Path, overrides: list[str], redis: str | None, error: type[Exception], message: str
):
    with pytest.raises(error) as refused:
        prepare_scheduled(file, [f"run.dir={tmp_path / 'run'}", *overrides], redis)
    assert message in str(refused.value)


def test_a_run_is_neither_overwritten_nor_changed_while_it_runs(file: Path, tmp_path: Path):
    prepared(file, tmp_path / "run")
    with pytest.raises(RunError, match="give the directory itself to go on"):
        prepared(file, tmp_path / "run")
    with RunDirectory.at(tmp_path / "run").lock(), pytest.raises(RunError, match="in progress"):
        prepare_scheduled(tmp_path / "run", [], "node-1:6379")


def test_the_command_prints_what_processes_are_started_with(file: Path, tmp_path: Path):
    words = ["prepare", str(file), "--redis", "node-1:6379", f"--set=run.dir={tmp_path / 'run'}"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.output.splitlines()[0]) == (0, str(tmp_path / "run/redis/redis.conf"))
    again = CliRunner().invoke(app, words)
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
