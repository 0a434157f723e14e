"""`leeway task`: shows what a task asks and how it judges, without engine or learner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from learner.cli.run.run_directory import RunError
from learner.cli.run.run_file import RunFile
from rollout.config import WorkerConfig
from runtime.children import die_with_parent

_ALONE = """
[run]
name = "task"
[model]
path = "demo"
[learner]
steps = 1
"""


@dataclass(frozen=True)
class TaskLook:
    """What is to be shown.

    Attributes:
        task: name of a task, or label of one of the run file's; empty: all tasks of the run file.
        source: a run file; None: only the task is known.
        overrides: changes of single settings, as ``section.key=value``.
        count: prompts of each task.
        responses: texts that are judged.
        limit_s: seconds after which the process that has the task is killed.
    """

    task: str
    source: Path | None
    overrides: Sequence[str]
    count: int
    responses: Sequence[str]
    limit_s: float


def look_at_task(look: TaskLook, write: Callable[[str], None]) -> int:
    """Shows a task, in a process of its own: it is a user's code, and the `leeway` command has none of its packages.

    The module of a task is imported from the current directory, as a worker that `leeway up` starts imports it.

    Args:
        look: what is to be shown.
        write: called with each line.

    Returns:
        The process's exit status.

    Raises:
        SettingsError: a setting is not allowed.
        RunError: no task is named, the run file has none of that name, or the time limit is over.
    """
    with tempfile.TemporaryDirectory() as directory:
        run_file = _run_file(look, Path(directory))
        config = _worker(run_file, look.task)
        if look.source is None and run_file.demo_model:
            write("token ids are of the demo's vocabulary; for those of your model: --set model.path=DIRECTORY")
        (Path(directory) / "worker.json").write_text(config.model_dump_json())
        arguments = ["--count", str(look.count), "--demo-model", run_file.demo_model]
        for response in look.responses:
            arguments += ["--response", response]
        command = [sys.executable, "-m", "rollout", "task", str(Path(directory) / "worker.json"), *arguments]
        status = _run(command, look.limit_s, write)
    if status is None:
        raise RunError(f"the task was not done after {look.limit_s:g} s: it hangs, or --limit is too low for it")
    return status


def _run_file(look: TaskLook, directory: Path) -> RunFile:
    if look.source is not None:
        return RunFile.read(look.source, look.overrides)
    if not look.task:
        raise RunError("leeway task: name a task, such as sort or my_module:Class, or give a run file with --config")
    (directory / "run.toml").write_text(_ALONE)
    return RunFile.read(directory / "run.toml", [f"rollout.task.name={json.dumps(look.task)}", *look.overrides])


def _worker(run_file: RunFile, asked: str) -> WorkerConfig:
    """The settings of a worker that has the tasks that are asked for."""
    rollout = run_file.rollout.model_copy(update={"workers": 1})
    plan = run_file.model_copy(update={"rollout": rollout}).resolve("redis://task", "task", 1 << 30)
    config = plan.workers[0]
    chosen = tuple(task for task in config.task if asked in ("", task.label, task.name))
    if not chosen:
        known = ", ".join(repr(task.label) for task in config.task)
        raise RunError(f"no task {asked!r} in the run file; its tasks: {known}")
    return config.model_copy(update={"task": chosen})


def _run(command: Sequence[str], limit_s: float, write: Callable[[str], None]) -> int | None:
    """Runs a command and writes its output line by line; None if it was killed at the limit."""
    environment = {"LEEWAY_LOG": "console", **os.environ}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    killed = threading.Event()

    def end() -> None:
        killed.set()
        _kill(process)

    timer = threading.Timer(limit_s, end)
    timer.start()
    try:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                write(line.rstrip("\n"))
        status = process.wait()
    finally:
        timer.cancel()
        _kill(process)  # what it has started is in its session
        process.wait()
    return None if killed.is_set() else status


def _kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
