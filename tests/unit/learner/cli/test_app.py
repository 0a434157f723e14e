"""The command line: one line and the right exit status for every mistake."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from learner.cli.app import app
from tests.tools.runs import DEMO, REPOSITORY, make_run


def leeway(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def up(directory: Path, *arguments: str) -> Result:
    """Runs `leeway up` on the demo, at free addresses: another run may be in progress on this machine."""
    settings = (
        f"run.dir={directory}",
        f"gateway.listen=127.0.0.1:{free_port()}",
        f"rollout.engine.base_port={free_port()}",
    )
    return leeway("up", DEMO, *(word for setting in settings for word in ("--set", setting)), *arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in result.output


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.mark.parametrize("place", ["/proc/nothing/run", "/dev/null/run"])
def test_a_directory_that_cannot_be_made_is_named_without_a_traceback(place: str):
    result = up(Path(place))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert result.stderr.startswith(f"error: {Path(place).parent}")


def test_a_mistake_ends_the_real_command_without_a_traceback(tmp_path: Path):
    command = [sys.executable, "-m", "learner.cli.app", "up", str(DEMO), "--set", "learner.stepz=3"]
    reply = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert reply.returncode == 2
    assert reply.stdout == ""
    assert reply.stderr == f"error: {DEMO}: unknown key 'learner.stepz' (value 3); did you mean 'learner.steps'?\n"


def test_settings_that_do_not_fit(tmp_path: Path):
    assert_refused(leeway("up", tmp_path / "none.toml"), "none.toml: no such configuration file")
    assert_refused(up(tmp_path / "r", "--set", "learner.steps=-1"), "learner.steps = -1", "greater than 0")
    assert_refused(
        up(tmp_path / "r", "--set", f"model.path={tmp_path / 'm'}"), f'model.path = "{tmp_path / "m"}": no such'
    )
    assert not (tmp_path / "r").exists()


def test_a_port_in_use_is_named_before_anything_is_touched(tmp_path: Path, busy_port: int):
    address = f"127.0.0.1:{busy_port}"
    make_run(tmp_path / "r")
    anew = ("--set", "run.overwrite=true")
    assert_refused(up(tmp_path / "r", *anew, "--set", f"gateway.listen={address}"), "gateway.listen", address, "in use")
    engine = f"rollout.engine.base_port={busy_port}"
    assert_refused(up(tmp_path / "r", *anew, "--set", engine), "rollout.engine.base_port", address)
    assert (tmp_path / "r" / "run.json").is_file()
    assert not (tmp_path / "r.1").exists()


def test_an_address_that_is_none(tmp_path: Path):
    assert_refused(up(tmp_path / "r", "--set", "gateway.listen=localhost"), 'gateway.listen = "localhost"')


def test_an_existing_run_is_not_overwritten_unasked(tmp_path: Path):
    make_run(tmp_path / "r")
    assert_refused(up(tmp_path / "r"), "exists", "--resume", "run.overwrite=true")


def test_nothing_to_resume(tmp_path: Path):
    assert_refused(up(tmp_path / "r", "--resume"), "there is no run to resume")
    assert_refused(leeway("up", tmp_path), "not a run directory")
    make_run(tmp_path / "made")
    assert_refused(leeway("up", tmp_path / "made"), "add --resume")


def test_a_run_in_progress_is_left_alone(tmp_path: Path):
    run = make_run(tmp_path / "r").directory
    with run.lock():
        assert_refused(up(tmp_path / "r", "--set", "run.overwrite=true"), "in progress in another process")
        assert_refused(leeway("up", tmp_path / "r", "--resume"), "in progress in another process")


@pytest.mark.parametrize("command", ["status", "ledger", "report"])
def test_a_directory_without_a_run(tmp_path: Path, command: str):
    assert_refused(leeway(command, tmp_path), "not a run directory (it has no run.json)")


def test_the_ledger_of_a_run_that_never_started(tmp_path: Path):
    make_run(tmp_path / "r")
    assert_refused(leeway("ledger", tmp_path / "r", "--check"), "no embedded Redis has ever run here")


def test_status_and_report_of_a_run_that_has_ended(tmp_path: Path):
    make_run(tmp_path / "r")
    status = leeway("status", tmp_path / "r")
    assert status.exit_code == 0
    assert "not running" in status.stdout
    assert "step 3 of 3" in status.stdout
    report = leeway("report", tmp_path / "r")
    assert report.exit_code == 0
    assert report.stdout.strip() == str(tmp_path / "r" / "report.html")
    assert (tmp_path / "r" / "report.html").is_file()


def test_help_lists_the_commands():
    text = leeway("--help").stdout
    assert all(command in text for command in ("up", "status", "ledger", "report"))


def test_the_command_starts_without_what_only_some_of_it_needs():
    heavy = {
        "asyncio", "blake3", "grpc", "hiredis", "matplotlib", "numpy", "prometheus_client", "psutil", "pydantic", "redis",
        "rollout", "structlog", "torch", "transformers", "uvloop",
    }  # fmt: skip
    program = (
        "import json, sys; import learner.cli.app; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert heavy & set(json.loads(done.stdout)) == set()
