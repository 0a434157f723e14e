"""Prepares a run's directory and finds as many mistakes as possible before any process is started."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from learner.cli.preflight.checks import brief_preflight
from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.network import DEMO_CONFIGS
from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from learner.cli.run.summary import read_summary
from learner.cli.up.commands import require_free
from learner.cli.up.model_check import require_layout, vocabulary_size
from runtime.settings import SettingsError

Notify = Callable[[str], None]


@dataclass(frozen=True)
class PreparedRun:
    """A run that can be started, and what its run.json said before.

    Attributes:
        run_file: the settings to start it with.
        before: content of run.json before a resume; None for a new run.
    """

    run_file: RunFile
    before: bytes | None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the run while the block runs, and writes its settings; an error in the block puts run.json back.

        Raises:
            RunError: another process has locked the run; its run.json is not touched.
        """
        with self.run_file.directory.lock():
            self.run_file.write(self.run_file.directory.settings)
            try:
                yield
            except BaseException:
                self.restore()
                raise

    def restore(self) -> bool:
        """Puts run.json back as it was before the resume; returns whether that changed anything.

        Settings that a run has failed with would else be those of every later resume.
        """
        path = self.run_file.directory.settings
        if self.before is None or path.read_bytes() == self.before:
            return False
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(self.before)
        temporary.replace(path)
        return True


def open_run(source: Path, overrides: Sequence[str], resume: bool, notify: Notify) -> PreparedRun:
    """Reads the settings, checks them against this machine, and makes the run's directory.

    A resumed run keeps the settings it had, apart from ``overrides``. An older run of that directory which failed before its
    first step is renamed.

    Args:
        source: a TOML file, or a run directory (to resume it).
        overrides: changes of single settings, as ``section.key=value``.
        resume: continue where the run stopped, as ``run.resume = true`` does.
        notify: called with a line of text when a run is resumed or an older directory is renamed.

    Raises:
        SettingsError: a setting is missing, unknown or not allowed.
        RunError: the run cannot be started or resumed.
    """
    if source.is_dir() and not (source / "run.json").is_file():
        raise RunError(f"{source}: not a run directory (it has no run.json); expected one, or a TOML file")
    asked = RunFile.read(source, overrides)
    directory = asked.directory
    if resume or asked.run.resume:
        run_file = _resumed(source, directory, overrides, notify)
    elif source.is_dir():
        raise RunError(f"{source} is a run directory: add --resume to continue it")
    else:
        run_file = asked
    if directory.is_locked():
        raise RunError(f"{directory.root}: this run is in progress in another process; stop that one first")
    new = not (resume or asked.run.resume)
    useless = _failed_before_its_first_step(directory)
    if new and not useless:
        _refuse_to_overwrite(run_file)
    _preflight(run_file, str(source), notify)
    before = None if new else directory.settings.read_bytes()
    if new and (moved := directory.set_aside()):
        what = "the older run, which failed before its first step," if useless else "the older run"
        notify(f"{what} was renamed to {_short(moved)}")
    directory.create()
    return PreparedRun(run_file.absolute(), before)


def _resumed(source: Path, directory: RunDirectory, overrides: Sequence[str], notify: Notify) -> RunFile:
    if not directory.settings.is_file():
        raise RunError(f"{directory.root}: there is no run to resume (no run.json); start it without --resume")
    if not source.is_dir():
        notify(f"resuming {_short(directory.root)} with the settings it had; of {source} only --set changes apply")
    return RunFile.read(directory.root, overrides)


def _preflight(run_file: RunFile, source: str, notify: Notify) -> None:
    try:
        vocabulary = 1
        if run_file.demo_model:
            require_layout(DEMO_CONFIGS[run_file.demo_model], run_file.learner.parallel, run_file.learner.lora)
        else:
            vocabulary = vocabulary_size(run_file.model_directory(), run_file.learner.parallel, run_file.learner.lora)
        run_file.resolve("redis://unknown", "run", vocabulary)
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from error
    require_free(run_file.gateway.listen, "gateway.listen")
    engine = run_file.rollout.engine
    if not engine.urls:
        for index in range(run_file.rollout.workers * engine.count):
            require_free(f"127.0.0.1:{engine.base_port + index}", "rollout.engine.base_port + index")
    if run_file.eval is not None:
        _preflight_evaluator(run_file)
    found = list(brief_preflight(ExaminedConfig.of_run(run_file)))
    failures = [f"{source}: {finding.found}; {finding.fix}" for finding in found if finding.state == "fail"]
    if failures:
        raise SettingsError("\n".join(failures))
    for finding in found:
        if finding.state == "warn":
            notify(f"warning: {finding.found}; {finding.fix}")


def _preflight_evaluator(run_file: RunFile) -> None:
    """Checks that the evaluator's engine could listen. Raises RunError."""
    plan = run_file.resolve("redis://unknown", "run", 1)
    if plan.evaluator is not None and not plan.evaluator.engine.urls:
        require_free(f"127.0.0.1:{plan.evaluator.engine.base_port}", "eval.engine.base_port")


def _failed_before_its_first_step(directory: RunDirectory) -> bool:
    try:
        summary = read_summary(directory)
    except ValueError:  # damaged: nothing is known of that run
        return False
    return (
        directory.settings.is_file() and summary is not None and summary["status"] == "failed" and not summary["steps"]
    )


def _refuse_to_overwrite(run_file: RunFile) -> None:
    root = run_file.directory.root
    if root.exists() and not run_file.run.overwrite:
        raise RunError(
            f"{_short(root)} exists: add --resume to continue it, --set run.name=... to use another directory, or "
            "--set run.overwrite=true to rename it and start a new run"
        )


def _short(path: Path) -> str:
    """The path relative to the current directory, if it is inside it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
