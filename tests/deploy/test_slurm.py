"""deploy/slurm and deploy/skypilot: directives, fields and commands are what their readers take; the job comes through."""

from __future__ import annotations

import os
import re
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from runtime.children import Child
from tests.deploy.skypilot import TASK
from tests.deploy.slurm import ROOT, SCRIPT, STEPS, perform
from tests.deploy.slurm_standin import write_programs

TEXT = SCRIPT.read_text()
# sbatch's long options, as its manual has them, that the script uses, and the form of their values.
DIRECTIVES = {
    "job-name": r"\S+", "nodes": r"\d+(-\d+)?", "ntasks-per-node": r"\d+", "gpus-per-node": r"(\w+:)?\d+", "exclusive": "",
    "mem": r"\d+[KMGT]?", "time": r"(\d+-)?\d+:\d\d:\d\d", "dependency": "singleton", "output": r"\S+",
    "open-mode": "append|truncate", "signal": r"B:USR1@\d+", "requeue": "",
}  # fmt: skip
# SkyPilot's fields, from its reference of the task YAML.
FIELDS = {"name", "workdir", "num_nodes", "resources", "volumes", "envs", "setup", "run"}
RESOURCES = {"infra", "accelerators", "network_tier"}


def directives(text: str) -> dict[str, str]:
    """The #SBATCH lines before the first command, which are all that sbatch reads."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("#SBATCH --"):
            name, _, value = line.removeprefix("#SBATCH --").partition("=")
            found[name] = value
        elif not line.startswith("#"):
            break
    return found


def test_every_directive_is_one_of_sbatch_and_none_is_left_unread():
    found = directives(TEXT)
    assert len(found) == TEXT.count("\n#SBATCH")
    for name, value in found.items():
        assert re.fullmatch(DIRECTIVES[name], value), f"--{name}={value}"


def test_the_signal_leaves_time_for_a_checkpoint_and_the_queue_takes_the_job_back():
    before_s = int(directives(TEXT)["signal"].rpartition("@")[2])
    stop_s = re.search(r"^STOP_S=\$\{STOP_S:-(\d+)\}", TEXT, re.MULTILINE)
    assert stop_s is not None
    ends_s = sum(int(limit) for limit in re.findall(r"^end (\d+) ", TEXT, re.MULTILINE))
    assert before_s > int(stop_s[1]) + ends_s
    assert "requeue" in directives(TEXT)
    assert "trap 'stop \"the time limit is near\"' USR1" in TEXT


@pytest.mark.parametrize("text", [TEXT, TASK["setup"], TASK["run"]], ids=["sbatch", "setup", "run"])
def test_a_shell_reads_it(text: str):
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, timeout=20)
    assert done.stderr == ""


@pytest.mark.parametrize("text", [TEXT, TASK["run"]], ids=["sbatch", "skypilot"])
def test_its_modules_can_be_run_and_torchrun_takes_its_options(text: str):
    modules = re.findall(r'PYTHON" -m ([\w.]+)', text)
    assert {"learner.gateway", "rollout", "learner.cli.app", "learner.node"} <= set(modules)
    for module in [*modules, "learner"]:
        found = find_spec(module)
        assert found is not None, module
        assert not found.submodule_search_locations or find_spec(f"{module}.__main__"), module
    options = re.findall(r"--(?:nnodes|nproc|rdzv|local-addr|max-restarts|monitor|shutdown)[\w-]*=\S+", text)
    assert len(options) >= 9
    plain = [re.sub(r'"?\$\{?[^"]*?\}?"', "1", option).replace('"', "") for option in options]
    parsed = get_args_parser().parse_args([*plain, "-m", "learner", "learner.json"])
    assert (parsed.rdzv_backend, parsed.training_script) == ("c10d", "learner")


def test_skypilots_fields_are_those_of_its_reference():
    assert set(TASK) <= FIELDS
    assert set(TASK["resources"]) <= RESOURCES
    assert all(isinstance(value, str) for value in TASK["envs"].values())
    volume: dict[str, Any] = yaml.safe_load((ROOT / "deploy/skypilot/volume.yaml").read_text())
    assert TASK["volumes"] == {"/leeway": volume["name"]}
    assert volume["config"] == {"access_mode": "ReadWriteMany"}
    assert set(volume) == {"name", "type", "infra", "size", "config"}


def test_a_directive_of_another_name_and_one_after_a_command_are_found():
    assert "sginal" in directives(TEXT.replace("--signal", "--sginal"))
    assert "requeue" not in directives(TEXT.replace("#SBATCH --requeue\nset -e", "set -e\n#SBATCH --requeue\nset -e"))


PYTHON = """#!/bin/bash
# What the job starts: the learner ends on its first node with a status, and on the second with one of what has been killed.
case "$*" in
  *"cli.app prepare"*) mkdir -p "$RUN_DIR/config" "$RUN_DIR/logs" ;;
  *learner.node*)
    [[ $SLURM_PROCID == 0 ]] || { sleep 1; exit 137; }
    echo "learner.steps = 0: a number above 0"; exit "$LEARNER_STATUS" ;;
  *bundled_server*) echo "$BINARIES/server" ;;
  *) exec sleep 600 ;;
esac
"""


@pytest.mark.parametrize(
    ("status", "restarts", "ends", "requeued", "said"),
    [
        (2, 0, 2, False, "which no restart mends: learner.steps = 0"),
        (1, 0, 0, True, "the learner failed with status 1"),
        (4, 3, 0, True, "the learner failed with status 4"),
        (137, 0, 0, True, "the learner failed with status 137"),
        (1, 20, 2, False, "the learner failed with status 1"),
    ],
)
def test_the_job_is_requeued_where_a_restart_helps(
    tmp_path: Path, status: int, restarts: int, ends: int, requeued: bool, said: str
):
    programs = tmp_path / "bin"
    write_programs(programs)
    for name, text in {"python": PYTHON, "server": "#!/bin/sh\nexec sleep 600\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "BINARIES": str(programs),
        "LEARNER_NODES": "2", "RANKS_PER_NODE": "1", "RUN_DIR": str(tmp_path / "run"), "LOCAL_DIR": str(tmp_path),
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "slurm", "SLURM_JOB_NODELIST": "127.0.0.1,127.0.0.2,127.0.0.3",
        "SLURM_RESTART_COUNT": str(restarts), "STANDIN_REQUEUED": str(tmp_path / "requeued"),
        "LEARNER_STATUS": str(status),
    }  # fmt: skip
    job = Child("job", ["bash", str(SCRIPT), "run.toml"], tmp_path / "job.log", environment)
    try:
        assert job.wait(time.monotonic() + 120)
        output = (tmp_path / "job.log").read_text()
        assert (job.exit_code(), said in output) == (ends, True), output
        assert (tmp_path / "requeued").exists() == requeued
        assert not (tmp_path / "leeway-7").exists(), "versions are left on a node"
    finally:
        job.kill()


@pytest.mark.timeout(600)
def test_the_job_writes_a_checkpoint_at_its_time_limit_is_requeued_and_makes_its_steps(tmp_path: Path):
    shown = perform(tmp_path)
    assert shown.statuses == [0, 0], shown.output
    assert shown.requeued == ["7"]
    assert len(shown.starts) == 2
    assert shown.starts[1]["resumed_step"] >= 3, "the checkpoint of the first job is not there"
    assert sorted(step for _, step in shown.steps) == list(range(1, STEPS + 1))
    assert shown.account.doubled == []
    assert "the run is complete" in shown.output
