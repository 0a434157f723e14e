"""From the command line to a run directory that is ready: every mistake that can be seen is seen before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from learner.cli.run.run_directory import RunDirectory, RunError
from learner.cli.run.run_file import RunFile
from learner.cli.up.commands import require_free
from learner.cli.up.model_check import vocabulary_size
from runtime.settings import SettingsError

Say = Callable[[str], None]


def open_run(source: Path, overrides: Sequence[str], resume: bool, say: Say) -> RunFile:
    """Reads the settings, checks them against this machine, makes the run's directory and writes its run.json.

    A resumed run keeps the settings it had; ``overrides`` come on top.

    Args:
        source: a TOML file, or a run directory (to resume it).
        overrides: ``section.key=value``.
        resume: go on where the run stopped; so does ``run.resume = true``.
        say: told what becomes of directories.

    Raises:
        SettingsError, RunError: one line that names the mistake and the remedy.
    """
    if source.is_dir() and not (source / "run.json").is_file():
        raise RunError(f"{source}: not a run directory (it has no run.json); expected one, or a TOML file")
    asked = RunFile.read(source, overrides)
    directory = asked.directory
    if resume or asked.run.resume:
        run_file = _resumed(source, directory, overrides, say)
    elif source.is_dir():
        raise RunError(f"{source} is a run directory: add --resume to go on with it")
    else:
        run_file = asked
    if directory.is_held():
        raise RunError(f"{directory.root}: this run is going on in another process; stop that one first")
    anew = not (resume or asked.run.resume)
    if anew:
        _refuse_to_overwrite(run_file)
    _preflight(run_file, str(source))
    if anew and (moved := directory.set_aside()):
        say(f"the older run is set aside as {_short(moved)}")
    directory.create()
    run_file = run_file.absolute()
    run_file.write(directory.settings)
    return run_file


def _resumed(source: Path, directory: RunDirectory, overrides: Sequence[str], say: Say) -> RunFile:
    if not directory.settings.is_file():
        raise RunError(f"{directory.root}: there is no run to resume (no run.json); start it without --resume")
    if not source.is_dir():
        say(f"resuming {_short(directory.root)} with the settings it had ({source} is not read again; --set is)")
    return RunFile.read(directory.root, overrides)


def _preflight(run_file: RunFile, source: str) -> None:
    try:
        vocabulary = 1
        if not run_file.makes_model:
            vocabulary = vocabulary_size(run_file.model_directory(), run_file.learner.parallel)
        run_file.resolve("redis://unknown", "run", vocabulary)
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from error
    require_free(run_file.gateway.listen, "gateway.listen")
    engine = run_file.rollout.engine
    if not engine.urls:
        for index in range(run_file.rollout.workers * engine.count):
            require_free(f"127.0.0.1:{engine.base_port + index}", "rollout.engine.base_port + index")


def _refuse_to_overwrite(run_file: RunFile) -> None:
    root = run_file.directory.root
    if root.exists() and not run_file.run.overwrite:
        raise RunError(
            f"{_short(root)} exists: add --resume to go on with it, or choose another --set run.name=..., "
            "or --set run.overwrite=true to set it aside"
        )


def _short(path: Path) -> str:
    """Relative to where we are, when it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
