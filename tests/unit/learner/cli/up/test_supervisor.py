"""The supervisor with real processes that are quick to start: restarts, failures, stopping, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.up.process import Process, ProcessFailed
from learner.cli.up.supervisor import Supervisor
from learner.queue import ServedError
from tests.tools.runs import DEMO, REPOSITORY
from tests.tools.supervisor_host import NoDisplay

MODEL = """
import pathlib, sys
from rollout.data.demo_model import write_model
write_model(pathlib.Path(sys.argv[1], "model"), 0)
"""
DEADLINE_S = 90.0
FOREVER = "import time; time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}"
# Leaves a process in a session of its own behind, as torchrun's ranks and SGLang's schedulers are.
SCATTERING = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True); {FOREVER}"
)
# Says that it waits for a signal, and takes a while to save.
SAVING = """
import pathlib, signal, sys, time
def stop(*_):
    time.sleep({seconds}); pathlib.Path(sys.argv[1], "saved").touch(); sys.exit()
signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(600)
"""
WELL = {
    "model": MODEL,
    "demonstrations": "import pathlib, sys; pathlib.Path(sys.argv[2]).touch()",
    "gateway": FOREVER,
    "worker": FOREVER,
    "learner": "pass",
}


def host(directory: Path, *settings: str, **programs: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.tools.supervisor_host"]
    arguments = [*command, str(directory), json.dumps({**WELL, **programs}), *settings]
    return subprocess.Popen(arguments, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)


def outcome_of(process: subprocess.Popen[str]) -> dict:
    try:
        output, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    return json.loads(output)


def wait_for_pid(directory: Path, process: subprocess.Popen[str], name: str) -> int:
    path = RunDirectory.at(directory).processes
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None
        if path.is_file():
            pids = {row["name"]: row["pid"] for row in json.loads(path.read_text())}
            if pids.get(name):
                return pids[name]
        time.sleep(0.02)
    pytest.fail(f"{name} did not start")


LINE = json.dumps({"level": "error", "event": "configuration", "error": "limits.vocab_size = 0: must be greater"})
# Runs that end by themselves: what differs from WELL in each.
ENDING: dict[str, dict[str, str]] = {
    "well": {},
    "no worker": {"settings": "rollout.workers=0", "worker": "raise SystemExit(2)"},
    "evaluated": {
        "evaluator": "import pathlib, sys, time; time.sleep(2); pathlib.Path(sys.argv[1], 'evaluated').touch()"
    },
    "a failed job": {"model": "raise SystemExit('ValueError: no such shape')"},
    **{
        name: {"learner": FOREVER, name: f"print({LINE!r}); raise SystemExit(2)"}
        for name in ("gateway", "worker", "learner")
    },
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """Directories and outcomes of ENDING, all run at once."""
    root = tmp_path_factory.mktemp("ended")
    started = {}
    for name, given in ENDING.items():
        settings, programs = given.get("settings", "").split(), {k: v for k, v in given.items() if k != "settings"}
        started[name] = host(root / name, *settings, **programs)
    try:
        return {name: (root / name, outcome_of(process)) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()


def test_a_run_ends_when_the_learner_has_done_its_steps(ended: dict[str, tuple[Path, dict]]):
    directory, outcome = ended["well"]
    assert (outcome["signal"], outcome["failure"]) == (None, None)
    run = RunDirectory.at(directory)
    assert run.demonstrations.is_file()
    settings = json.loads((run.config / "gateway.json").read_text())
    assert settings["limits"]["vocab_size"] == 16
    assert settings["queue"] == json.loads((run.config / "learner.json").read_text())["queue"]
    known = {}
    for name, role in (("local", "submit"), ("operator", "operate")):
        token = run.secret(name)
        assert token.stat().st_mode & 0o777 == 0o600
        digest = hashlib.sha256(token.read_text().strip().encode()).hexdigest()
        known[name] = {"tokens": [digest], "roles": [role]}
    assert json.loads(run.identities.read_text()) == known


def test_a_run_without_workers_makes_its_demonstrations_and_starts_all_the_rest(ended: dict[str, tuple[Path, dict]]):
    directory, outcome = ended["no worker"]
    assert (outcome["signal"], outcome["failure"]) == (None, None)
    assert set(outcome["restarts"]) == {"gateway", "learner"}
    run = RunDirectory.at(directory)
    assert run.demonstrations.is_file()
    assert not list(run.config.glob("worker-*.json"))
    settings = json.loads((run.config / "demonstrations.json").read_text())
    assert settings["model"] == str(run.model)


def test_a_run_ends_when_its_last_version_is_evaluated(ended: dict[str, tuple[Path, dict]]):
    directory, outcome = ended["evaluated"]
    assert [outcome[name] for name in ("signal", "failure", "not_evaluated")] == [None, None, None]
    assert (directory / "evaluated").is_file()
    assert outcome["restarts"]["evaluator"] == 0
    run = RunDirectory.at(directory)
    assert json.loads(run.identities.read_text())["evaluator"]["roles"] == ["evaluate"]
    settings = json.loads((run.config / "evaluator.json").read_text())
    assert settings["token_file"] == str(run.secret("evaluator"))
    assert json.loads((run.config / "learner.json").read_text())["publish"]["best"] == "sort:greedy:mean@1"


def test_a_run_waits_for_its_evaluation_for_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path / 'r'}", "eval.final_timeout_s=5"])
    run_file.directory.create()
    supervisor = Supervisor(run_file, NoDisplay())
    for name, state in (("learner", "done"), ("evaluator", "running")):
        process = Process(name, lambda: pytest.fail("started"), tmp_path / "log")
        process.state = state
        supervisor._processes[name] = process
    clock = iter([100.0, 100.0, 200.0, 200.0])
    monkeypatch.setattr("learner.cli.up.supervisor.time.monotonic", lambda: next(clock))
    assert not supervisor._finished()
    assert supervisor._finished()
    assert "eval.final_timeout_s" in str(supervisor._outcome.not_evaluated)
    supervisor._processes["evaluator"].state = "done"
    assert supervisor._finished()


def test_an_evaluator_that_fails_for_good_does_not_end_a_run_that_trains(tmp_path: Path):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path / 'r'}"])
    run_file.directory.create()
    supervisor = Supervisor(run_file, NoDisplay())

    class Failing(Process):
        def check(self, may_finish: bool = False) -> None:
            raise ProcessFailed("evaluator: no such file")

    evaluator = Failing("evaluator", lambda: pytest.fail("started"), tmp_path / "log")
    with pytest.raises(ProcessFailed):  # nothing is trained yet: the settings are corrected first
        supervisor._check("evaluator", evaluator)
    (run_file.directory.metrics / "learner.jsonl").write_text(
        json.dumps({"kind": "step", "time": time.time(), "step": 1}) + "\n"
    )
    supervisor._recent.poll()
    supervisor._check("evaluator", evaluator)
    assert (evaluator.state, supervisor._outcome.not_evaluated) == ("failed", "evaluator: no such file")


@pytest.mark.parametrize(("step", "done"), [(None, False), (1, False), (2, True)])
def test_a_worker_may_end_by_itself_only_when_all_steps_are_made(tmp_path: Path, step: int | None, done: bool):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path / 'r'}", "learner.steps=2"])
    run_file.directory.create()
    if step is not None:
        row = {"kind": "step", "time": time.time(), "step": step}
        (run_file.directory.metrics / "learner.jsonl").write_text(json.dumps(row) + "\n")
    supervisor = Supervisor(run_file, NoDisplay())
    supervisor._recent.poll()
    assert supervisor._may_finish("worker-0") == done
    assert supervisor._may_finish("learner")
    assert not supervisor._may_finish("gateway")
    assert not supervisor._may_finish("redis")


def test_a_run_waits_for_a_redis_that_a_command_has_started_on_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_file = RunFile.read(DEMO, [f"run.dir={tmp_path / 'r'}"])
    run_file.directory.create()
    supervisor = Supervisor(run_file, NoDisplay())
    answers: list[object] = [ServedError("a command"), ServedError("a command"), "its own"]

    def start(*_: object, **__: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, ServedError):
            raise answer
        return answer

    monkeypatch.setattr("learner.cli.up.supervisor.EmbeddedRedis.start", start)
    monkeypatch.setattr("learner.cli.up.supervisor._TICK_S", 0.0)
    assert supervisor._own_redis() == "its own"
    answers += [ServedError("another run")]
    monkeypatch.setattr("learner.cli.up.supervisor._OTHERS_REDIS_S", 0.0)
    with pytest.raises(ServedError, match="another run"):
        supervisor._own_redis()


def test_what_dies_is_started_again(tmp_path: Path):
    process = host(tmp_path / "r", learner=FOREVER)
    learner = wait_for_pid(tmp_path / "r", process, "learner")
    gateway = wait_for_pid(tmp_path / "r", process, "gateway")
    os.kill(gateway, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while wait_for_pid(tmp_path / "r", process, "gateway") == gateway:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert wait_for_pid(tmp_path / "r", process, "learner") == learner
    process.send_signal(signal.SIGTERM)
    outcome = outcome_of(process)
    assert outcome["signal"] == signal.SIGTERM
    assert outcome["restarts"]["gateway"] == 1


@pytest.mark.parametrize("name", ["gateway", "worker", "learner"])
def test_a_configuration_error_ends_the_run_with_the_process_own_words(ended: dict[str, tuple[Path, dict]], name: str):
    assert ended[name][1]["failure"].endswith(": limits.vocab_size = 0: must be greater")


def test_a_job_that_fails_ends_the_run(ended: dict[str, tuple[Path, dict]]):
    assert ended["a failed job"][1]["failure"].startswith("model: ValueError: no such shape (log: ")


def test_ctrl_c_ends_stubborn_and_scattered_processes(tmp_path: Path):
    process = host(tmp_path / "r", "learner.stop_grace_s=1", learner=STUBBORN, worker=SCATTERING, gateway=STUBBORN)
    wait_for_pid(tmp_path / "r", process, "learner")
    family = psutil.Process(process.pid)
    deadline = time.monotonic() + DEADLINE_S
    while len(members := family.children(recursive=True)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    outcome = outcome_of(process)  # well before the 600 s that they would go on for
    assert outcome["signal"] == signal.SIGINT
    assert [member for member in members if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(("grace_s", "seconds", "saved"), [(0.2, 60, False), (60.0, 0.5, True)])
def test_the_learner_has_as_long_for_its_last_checkpoint_as_it_is_given(
    tmp_path: Path, grace_s: float, seconds: float, saved: bool
):
    directory = tmp_path / "r"
    process = host(directory, f"learner.stop_grace_s={grace_s}", learner=SAVING.format(seconds=seconds))
    deadline = time.monotonic() + DEADLINE_S
    while not (directory / "ready").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert outcome_of(process)["signal"] == signal.SIGTERM
    assert (directory / "saved").is_file() == saved


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path):
    process = host(tmp_path / "r", "learner.stop_grace_s=600", learner=STUBBORN, worker=STUBBORN)
    wait_for_pid(tmp_path / "r", process, "learner")
    deadline = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert outcome_of(process)["signal"] == signal.SIGINT
    assert RunDirectory.at(tmp_path / "r").processes.is_file()


def test_sigkill_of_the_supervisor_takes_every_process_with_it(tmp_path: Path):
    process = host(tmp_path / "r", learner=STUBBORN, worker=STUBBORN, gateway=STUBBORN)
    wait_for_pid(tmp_path / "r", process, "learner")
    members = psutil.Process(process.pid).children(recursive=True)
    assert len(members) == 3
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    gone, alive = psutil.wait_procs(members, timeout=DEADLINE_S)
    assert len(gone) == 3, alive
