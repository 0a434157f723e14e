"""`leeway logs`: which logs there are, their last lines, and following them over rotations and new processes."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from learner.cli.operate.logs import FollowedLog, followed_logs, last_lines, log_files, shown_logs
from learner.cli.run.run_directory import RunDirectory, RunError
from tests.tools.runs import REPOSITORY, make_run

LIMIT_S = 60


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = make_run(tmp_path / "r").directory
    (run.logs / "gateway.log").write_text("g1\ng2\ng3\n")
    (run.logs / "worker-0.log").write_text("w1\nw2")
    (run.redis / "redis.log").write_text("r1\n")
    return run


def test_every_process_with_a_log_is_known(run: RunDirectory):
    assert list(log_files(run)) == ["gateway", "worker-0", "redis"]


def test_the_last_lines_of_one_and_of_all(run: RunDirectory):
    assert list(shown_logs(run, "gateway", 2)) == ["g2", "g3"]
    assert list(shown_logs(run, None, 1)) == ["==> gateway <==", "g3", "==> worker-0 <==", "w1", "==> redis <==", "r1"]


def test_an_unknown_process_is_an_error_that_names_the_known_ones(run: RunDirectory):
    with pytest.raises(RunError, match=r"'gatway'; there are: gateway, worker-0, redis"):
        list(shown_logs(run, "gatway", 1))


@pytest.mark.parametrize("count", [0, 1, 3, 100_000])
def test_the_end_of_a_long_file_is_found_from_behind(tmp_path: Path, count: int):
    lines = [f"line {number} {'x' * 50}" for number in range(20_000)]
    path = tmp_path / "log"
    path.write_text("\n".join(lines) + "\nhalf a li")
    found, behind = last_lines(path, count)
    assert found == lines[len(lines) - min(count, len(lines)) :]
    assert path.read_text()[behind:] == "half a li"


def test_a_rotated_file_is_read_to_its_end_and_its_successor_from_its_start(tmp_path: Path):
    path = tmp_path / "log"
    path.write_text("a\n")
    log = FollowedLog(path)
    assert log.lines() == ["a"]
    with path.open("a") as file:
        file.write("b\nc")
        file.flush()
        path.rename(tmp_path / "log.1")
        assert log.lines() == ["b"]  # the new file is not there yet
        file.write("d\nno end")
    path.write_text("e\n")
    assert log.lines() == ["cd", "no end", "e"]
    path.write_text("")  # cut, as copytruncate does
    assert log.lines() == []
    with path.open("a") as file:
        file.write("f\n")
    assert log.lines() == ["f"]
    log.close()


def test_a_file_that_is_cut_is_read_from_its_start(tmp_path: Path):
    path = tmp_path / "log"
    path.write_text("a long line\n")
    log = FollowedLog(path)
    log.lines()
    path.write_text("b\n")
    assert log.lines() == ["b"]
    log.close()


def test_following_shows_new_lines_and_new_processes(run: RunDirectory):
    def more() -> None:
        with (run.logs / "worker-0.log").open("a") as file:
            file.write(" and more\n")
        (run.logs / "worker-1.log").write_text("begun\n")

    found = followed_logs(run, None, 1, pause=more)
    assert list(itertools.islice(found, 5)) == [
        "gateway  | g3", "worker-0 | w1", "redis    | r1", "worker-0 | w2 and more", "worker-1 | begun",
    ]  # fmt: skip
    found.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_command_follows_until_ctrl_c(run: RunDirectory):
    command = [sys.executable, "-m", "learner.cli.app", "logs", str(run.root), "gateway", "-f", "-n", "1"]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "g3\n"
            with (run.logs / "gateway.log").open("a") as file:
                file.write("g4\n")
            assert process.stdout.readline() == "g4\n"
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert (output, errors, process.returncode) == ("", "", 0)
