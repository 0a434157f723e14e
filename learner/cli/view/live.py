"""What `leeway up` shows while a run is in progress: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import LearnerHistory, Row, RunHistory, mean
from learner.cli.view.in_force import in_force_rows
from learner.cli.view.stall import Stall, find_stall
from learner.cli.view.text import duration, number, sparkline
from learner.queue.change_journal import InForce

_PLAIN_S = 5.0
_QUIET_S = 30.0  # without a report a worker's rate is no longer what it makes now
_WORKING = ("training", "waiting for rollouts")


@dataclass(frozen=True)
class ProcessView:
    """A process as the display shows it.

    Attributes:
        name: "gateway", "worker-0", "learner" or "redis", or the name of a job.
        state: what the supervisor knows: "running", "restarting", "stopped", "done", ...
        pid: its process id; None when it does not run.
        restarts: how often it was restarted.
        age_s: seconds since its last start; None when that is not known.
    """

    name: str
    state: str
    pid: int | None
    restarts: int
    age_s: float | None


@dataclass(frozen=True)
class RunView:
    """A run at one moment, as the display shows it.

    Attributes:
        phase: what the run is doing, in a word or two.
        processes: its processes.
        history: its recorded metrics.
        started: when `leeway up` started it, in Unix seconds; None when seen from another process.
        in_force: what operators have changed; None where that is not known.
    """

    phase: str
    processes: list[ProcessView]
    history: RunHistory
    started: float | None
    in_force: InForce | None = None


class Display(Protocol):
    """Something that shows a run to its user."""

    def update(self, view: RunView) -> None:
        """Shows the run as it is now. Called several times a second."""


class LiveDisplay:
    """A display that redraws a table in place. Use it as a context manager."""

    def __init__(self, console: Console, run_file: RunFile) -> None:
        self._file = run_file
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def update(self, view: RunView) -> None:
        """Redraws the table."""
        self._live.update(render(view, self._file), refresh=True)


class PlainDisplay:
    """A display that prints a line when the phase or a process's state changes, and one about every five seconds."""

    def __init__(self, console: Console, run_file: RunFile) -> None:
        self._console = console
        self._file = run_file
        self._shown: dict[str, str] = {}
        self._next = 0.0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def update(self, view: RunView) -> None:
        """Prints what has changed, and the run's numbers if five seconds have passed since the last time."""
        states = {"phase": view.phase, **{p.name: _state(p, view, self._file) for p in view.processes}}
        changed = {
            name: _first_word(state)
            for name, state in states.items()
            if _first_word(self._shown.get(name, "")) != _first_word(state)
        }
        due = time.monotonic() >= self._next
        if not changed and not due:
            return
        self._shown = states
        if changed:
            self._print(view, ", ".join(f"{name}: {states[name]}" for name in changed))
        if due:
            self._next = time.monotonic() + _PLAIN_S
            text = plain_line(view, self._file)
            if text:
                self._print(view, text)

    def _print(self, view: RunView, text: str) -> None:
        self._console.print(f"[{_elapsed(view):>6}] {text}", markup=False, highlight=False, soft_wrap=True)


def make_display(console: Console, run_file: RunFile) -> LiveDisplay | PlainDisplay:
    """Makes the live table if the console is a terminal, the plain lines otherwise."""
    return LiveDisplay(console, run_file) if console.is_terminal else PlainDisplay(console, run_file)


def render(view: RunView, run_file: RunFile) -> RenderableType:
    """Renders the whole table: title, progress, numbers and processes."""
    title = " · ".join(["Leeway", run_file.run.name, view.phase, *([_elapsed(view)] if view.started else [])])
    rule = Rule(Text(title, style="bold"), align="left", style="dim")
    parts = [rule, _progress(view, run_file), _numbers(view, run_file), _processes(view, run_file)]
    for name, text in reversed(list(_in_force(view))):
        parts.insert(2, Text(f"{name}: {text}", style="cyan"))
    if (stall := _stall(view, run_file)) is not None:
        parts.insert(2, Text(stall.text(time.time()), style="yellow"))
    return Group(*parts)


def _stall(view: RunView, run_file: RunFile) -> Stall | None:
    """What the learner waits for, while it runs and makes no steps."""
    running = any(process.name == "learner" and process.state == "running" for process in view.processes)
    return find_stall(view.history, run_file, time.time()) if running and view.phase in _WORKING else None


def _progress(view: RunView, run_file: RunFile) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    warmup, section = view.history.learner.warmup, run_file.learner.warmup
    if view.history.learner.steps or not (warmup and section) or view.phase == "starting":
        done, total = _step(view), run_file.learner.steps
        stalled = view.phase != "training" or _stall(view, run_file) is not None
        left = None if stalled else time_left(view.history.learner.last(30), total)
        note = f"step {done} of {total}" + (f" · {duration(left)} left" if left is not None else "")
        grid.add_row(ProgressBar(total=total, completed=done, width=48), note)
    else:
        reached = warmup[-1].get("target_probability") or 0.0
        note = f"warm start · step {warmup[-1]['step']} · reference probability {reached:.2f} of {section.target:.2f}"
        grid.add_row(ProgressBar(total=section.target, completed=min(reached, section.target), width=48), note)
    return grid


def _numbers(view: RunView, run_file: RunFile) -> Table:
    history = view.history
    recent = history.learner.last(10)
    last: Row = recent[-1] if recent else {}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="cyan")
    rewards = _rewards(history.learner)
    table.add_row("reward", number(mean(recent, "reward")), f"{sparkline(rewards)} {_trend(rewards)}")
    table.add_row("version", number(last.get("version"), 0), "")
    table.add_row("staleness", number(mean(recent, "staleness_mean")), f"max {number(last.get('staleness_max'), 0)}")
    table.add_row(
        "queue depth", number(last.get("queue_depth"), 0), f"groups · {number(last.get('expired'), 0)} expired"
    )
    table.add_row("tokens/s generated", number(_generation_rate(view), 0), "")
    trained = None if _stall(view, run_file) else training_rate(history.learner.last(10))
    table.add_row("tokens/s trained", number(trained, 0), "")
    table.add_row("NLL of positives", number(mean(recent, "nll_positive"), 3), "nats/token")
    table.add_row("NLL of negatives", number(mean(recent, "nll_negative"), 3), "nats/token")
    table.add_row("entropy", number(mean(recent, "entropy"), 3), "nats/token")
    table.add_row("gradient norm", number(mean(recent, "grad_norm"), 3), f"{history.learner.skipped} steps skipped")
    if rate := _governed_rate(recent):
        table.add_row("learning rate", *rate)
    return table


def _processes(view: RunView, run_file: RunFile) -> Table:
    table = Table(box=None, show_header=True, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("process", "state", "pid", "restarts"):
        table.add_column(column, justify="right" if column in ("pid", "restarts") else "left")
    for process in view.processes:
        style = {"restarting": "red", "stopped": "dim", "done": "green"}.get(process.state, "")
        pid = str(process.pid) if process.pid else ""
        restarts = str(process.restarts) if process.restarts else ""
        table.add_row(process.name, Text(_state(process, view, run_file), style=style), pid, restarts)
    return table


def _state(process: ProcessView, view: RunView, run_file: RunFile) -> str:
    if process.state != "running":
        return process.state
    if process.name == "gateway":
        return f"listening on {run_file.gateway.listen}"
    if process.name == "redis":
        return f"serving, AOF {run_file.queue.aof}"
    if process.name == "learner":
        phase = view.history.learner.phase(0 if process.age_s is None else time.time() - process.age_s)
        return f"starting {duration(process.age_s or 0)}" if phase == "starting" else phase
    if process.name == run_file.evaluator and run_file.eval is not None:
        waits = run_file.eval.at_end and view.phase != "evaluating"
        return "waiting for the end of training" if waits else "evaluating versions as they are due"
    worker = view.history.workers.get(process.name)
    engines = [f"engine {state}" for state in worker.engines.values()] if worker else []
    return ", ".join(engines) or f"starting {duration(process.age_s or 0)}"


def _in_force(view: RunView) -> Iterator[tuple[str, str]]:
    """What operators have changed, as names and texts."""
    if (found := view.in_force) is not None:
        yield from in_force_rows(found.settings, found.drained, found.paused)


def plain_line(view: RunView, run_file: RunFile) -> str:
    """The run's numbers on one line; "" before there are any."""
    learner = view.history.learner
    recent = learner.last(10)
    if not recent:
        warmup, section = learner.warmup, run_file.learner.warmup
        if (stall := _stall(view, run_file)) is not None:
            return stall.text(time.time())
        if not (warmup and section) or view.phase != "warm start":
            return ""
        reached = warmup[-1].get("target_probability") or 0.0
        return f"warm start: step {warmup[-1]['step']}, reference probability {reached:.2f} of {section.target:.2f}"
    last = recent[-1]
    stall = _stall(view, run_file)
    left = None if stall else time_left(learner.last(30), run_file.learner.steps)
    numbers = [
        f"step {last['step']}/{run_file.learner.steps}",
        f"version {last.get('version')}",
        f"reward {number(mean(recent, 'reward'))} {_trend(_rewards(learner))}".rstrip(),
        f"staleness {number(mean(recent, 'staleness_mean'))} max {number(last.get('staleness_max'), 0)}",
        f"queue {number(last.get('queue_depth'), 0)}",
        f"tokens/s {number(_generation_rate(view), 0)} generated "
        f"{number(None if stall else training_rate(recent), 0)} trained",
        f"nll of positives {number(mean(recent, 'nll_positive'))} / negatives {number(mean(recent, 'nll_negative'))}",
        f"entropy {number(mean(recent, 'entropy'))}",
        f"gradient norm {number(mean(recent, 'grad_norm'))}",
    ]
    if rate := _governed_rate(recent):
        numbers.append(f"lr {', '.join(rate)}")
    numbers += [f"{name}: {text}" for name, text in _in_force(view)]
    if stall is not None:
        numbers.append(stall.text(time.time()))
    return " · ".join(numbers) + (f" · {duration(left)} left" if left is not None else "")


def _governed_rate(recent: list[Row]) -> tuple[str, str] | None:
    """The last step's learning rate, and its share of the ceiling; None where no step of late knows of a ceiling."""
    if all(row.get("lr_ceiling_share") is None for row in recent):
        return None
    last = recent[-1]
    share = last.get("lr_ceiling_share")
    held = "held by an alarm" if last.get("lr_active") == "hold" else ""
    return f"{last['lr']:.1e}", held if share is None else f"{share:.0%} of its ceiling"


def _generation_rate(view: RunView) -> float | None:
    """Response tokens generated per second; None when no worker has said anything of late."""
    since = time.time() - _QUIET_S if view.phase in _WORKING else 0.0
    return view.history.generation_rate(since=since) or None


def time_left(rows: list[Row], steps: int) -> float | None:
    """Seconds until the last step, from the median time per step of ``rows``; None when that is not known yet.

    The median ignores the gap that a resumed run has between two of its rows.
    """
    times = [(b["time"] - a["time"]) / (b["step"] - a["step"]) for a, b in itertools.pairwise(rows)]
    return max(0.0, statistics.median(times) * (steps - rows[-1]["step"])) if times else None


def training_rate(rows: list[Row]) -> float | None:
    """Response tokens trained per second over the rows; None with fewer than two."""
    if len(rows) < 2 or rows[-1]["time"] <= rows[0]["time"]:
        return None
    return sum(row["tokens"] for row in rows[1:]) / (rows[-1]["time"] - rows[0]["time"])


def _rewards(learner: LearnerHistory) -> list[float]:
    """Mean reward of each step that had one: a step of unscored responses only has none."""
    return [row["reward"] for row in learner.steps.values() if row["reward"] is not None]


def _trend(rewards: list[float]) -> str:
    """Change of the mean reward of the last ten steps against the ten before; "" before there are twenty."""
    if len(rewards) < 20:
        return ""
    change = sum(rewards[-10:]) / 10 - sum(rewards[-20:-10]) / 10
    arrow = "→" if abs(change) < 0.005 else "↑" if change > 0 else "↓"
    return f"{arrow} {change:+.2f}"


def _elapsed(view: RunView) -> str:
    return duration(time.time() - view.started) if view.started else ""


def _step(view: RunView) -> int:
    rows = view.history.learner.last(1)
    return int(rows[-1]["step"]) if rows else 0


def _first_word(text: str) -> str:
    return text.rstrip("0123456789.: ms").strip()
