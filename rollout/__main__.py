"""The command `python -m rollout FILE [--set ...]`, a rollout worker; its other commands are listed by --help.

Exit codes: 0 stopped by a signal, or the run has finished, 1 failed (worth a restart), 2 the configuration cannot be used,
3 the token is refused.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rollout.config import WorkerConfig
from runtime import logs
from runtime.allocator import keep_freed_memory
from runtime.arguments import add_settings, load
from runtime.children import die_with_parent
from runtime.errors import FAILED, LeewayError


def main(arguments: list[str]) -> int:
    """Runs a command; returns the exit code."""
    if os.environ.get("LEEWAY_CHILD") == "1":
        die_with_parent()
    commands: dict[str, Callable[[list[str]], None]] = {
        "evaluate": _evaluate,
        "model": _model,
        "replay": _replay,
        "rewards": _rewards,
        "demonstrations": _demonstrations,
        "task": _task,
    }
    command = commands.get(arguments[0], _worker) if arguments else _worker
    try:
        logs.configure("rollout")
        command(arguments[1:] if command is not _worker else arguments)
    except Exception as error:  # noqa: BLE001 - the process boundary: every failure becomes a line and an exit code
        return _explain(error)
    return 0


def _worker(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rollout",
        description="Runs a rollout worker until SIGTERM, or until its run has finished.",
        epilog="Other commands, each with --help: python -m rollout demonstrations|evaluate|model|replay|rewards|task",
    )
    add_settings(parser)
    config = load(WorkerConfig, parser.parse_args(arguments))
    _prepare()

    import uvloop

    from rollout.main import run_until_signal

    logs.configure(config.name, run=config.run, fleet=config.fleet)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_until_signal(config))


def _prepare() -> None:
    """Sets what has to be set before a process imports its libraries."""
    keep_freed_memory()
    # gRPC reads these when imported. Forks here only exec, so its fork handlers have nothing to save and would only warn.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def _evaluate(arguments: list[str]) -> None:
    from rollout.config.evaluation import EvaluatorConfig

    parser = argparse.ArgumentParser(
        prog="python -m rollout evaluate",
        description="Evaluates the versions of a run until SIGTERM, or until the run has finished and is evaluated.",
    )
    add_settings(parser)
    parser.add_argument(
        "--once", action="store_true", help="evaluate one version, or the model directory, without a gateway; then end"
    )
    options = parser.parse_args(arguments)
    config = load(EvaluatorConfig, options)
    _prepare()

    import uvloop

    from rollout.evaluation.process import run_until_signal

    logs.configure(config.name, run=config.run)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_until_signal(config, options.once))


def _rewards(arguments: list[str]) -> None:
    from rollout.rewards.listing import lines

    argparse.ArgumentParser(
        prog="python -m rollout rewards",
        description="Prints the rewards that task.reward can name, with their options.",
    ).parse_args(arguments)
    sys.stdout.write("".join(f"{line}\n" for line in lines()))


def _replay(arguments: list[str]) -> None:
    _prepare()

    from rollout.client.replay import main as replay

    replay(arguments)


def _model(arguments: list[str]) -> None:
    from rollout.data.demo_model import DemoShape, write_model

    parser = argparse.ArgumentParser(prog="python -m rollout model", description="Writes the demo's tiny Qwen3 model.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, required=True)
    for name in ("layers", "hidden", "ffn"):
        parser.add_argument(f"--{name}", type=int, default=getattr(DemoShape(), name), help="default: %(default)s")
    parser.add_argument("--tools", action="store_true", help="with the tokens of conversations and tool calls")
    options = parser.parse_args(arguments)
    shape = DemoShape(options.layers, options.hidden, options.ffn)
    parameters = write_model(options.out, options.seed, shape, tools=options.tools)
    sys.stdout.write(f"{options.out}: {parameters} parameters\n")


def _demonstrations(arguments: list[str]) -> None:
    from rollout.data.demonstrations import write_demonstrations

    parser = argparse.ArgumentParser(
        prog="python -m rollout demonstrations",
        description="Writes prompts with the task's own solutions, as token ids.",
    )
    add_settings(parser)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to write")
    options = parser.parse_args(arguments)
    write_demonstrations(load(WorkerConfig, options), options.count, options.seed, options.out)


def _task(arguments: list[str]) -> None:
    from rollout.environments.task_preview import show_tasks

    parser = argparse.ArgumentParser(
        prog="python -m rollout task", description="Shows prompts of a worker's tasks, their ids, and rewards."
    )
    add_settings(parser)
    parser.add_argument("--count", type=int, default=3, help="prompts of each task; default: %(default)s")
    parser.add_argument("--response", action="append", default=[], help="a response that is judged; may be repeated")
    parser.add_argument("--demo-model", default="", choices=["", "demo", "demo-tools"], help="instead of `model`")
    options = parser.parse_args(arguments)
    if show_tasks(load(WorkerConfig, options), options.demo_model, options.count, options.response):
        sys.exit(FAILED)


def _explain(error: Exception) -> int:
    """Writes one line to stderr for an error that a person can fix, a traceback for others; returns the exit status."""
    for leaf in _leaves(error):
        if isinstance(leaf, LeewayError):
            logs.fatal(str(leaf))
            return leaf.exit_status
    sys.excepthook(type(error), error, error.__traceback__)
    return FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yields the exceptions in a tree of exception groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
