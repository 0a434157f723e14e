"""Runs a Supervisor whose processes are small Python programs.

`python -m tests.tools.supervisor_host DIRECTORY JSON [section.key=value ...]`: JSON maps "model", "demonstrations",
"gateway", "worker", "learner" and perhaps "evaluator" to programs. The outcome is printed as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from learner.cli.run.run_file import RunFile
from learner.cli.up.commands import Commands
from learner.cli.up.supervisor import Supervisor
from learner.cli.view.live import RunView
from runtime.children import Child
from tests.tools.runs import DEMO


class Programs(Commands):
    """Starts the given programs in place of the real processes."""

    def __init__(self, run_file: RunFile, programs: dict[str, str]) -> None:
        super().__init__(run_file)
        self._root = run_file.directory.root
        self._programs = programs

    def make_model(self) -> Child:
        return self._start("model", "model")

    def make_demonstrations(self, out: Path) -> Child:
        return self._start("demonstrations", "demonstrations", str(out))

    def gateway(self) -> Child:
        return self._start("gateway", "gateway")

    def worker(self, name: str) -> Child:
        return self._start(name, "worker")

    def evaluator(self) -> Child:
        return self._start("evaluator", "evaluator")

    def learner(self) -> Child:
        return self._start("learner", "learner")

    def _start(self, name: str, program: str, *arguments: str) -> Child:
        command = [sys.executable, "-c", self._programs[program], str(self._root), *arguments]
        return Child(name, command, self.log(name))


class NoDisplay:
    def update(self, view: RunView) -> None:
        pass


def main(directory: str, programs: str, *settings: str) -> None:
    run_file = RunFile.read(DEMO, [f"run.dir={directory}", "queue.url=redis://127.0.0.1:9/0", *settings])
    given = json.loads(programs)
    if "evaluator" not in given:
        run_file = run_file.model_copy(update={"eval": None})
    run_file.directory.create()
    outcome = Supervisor(run_file, NoDisplay(), Programs(run_file, given)).run()
    print(json.dumps({name: getattr(outcome, name) for name in ("signal", "failure", "restarts", "not_evaluated")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
