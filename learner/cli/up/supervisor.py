"""The supervisor of a run: starts its processes, restarts those that die, and stops them all, leaving none behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import psutil

from learner.cli.run.failure_reason import failure_reason
from learner.cli.run.outcome import Outcome
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.sections import EMBEDDED
from learner.cli.up.commands import Commands
from learner.cli.up.in_force_feed import InForceFeed
from learner.cli.up.process import Process, ProcessFailed
from learner.cli.up.process_settings import issue_tokens, write_settings
from learner.cli.view.live import Display, ProcessView, RunView
from learner.queue import EmbeddedRedis, QueueError, ServedError, ledgers_in, reopen
from leeway.v1 import rollout_pb2
from runtime.children import Child
from runtime.errors import LeewayError

_TICK_S = 0.2
_END_TICK_S = 0.05
_WORKER_GRACE_S = 5.0
_EVALUATION_MARGIN_S = 60.0  # that an evaluator may take to start, beyond its own limit at the end of a run
_GATEWAY_GRACE_S = 1.0
_REDIS_GRACE_S = 1.0
_OTHERS_REDIS_S = 30.0  # that a command needs one for, at most; it has read it in a second
_PR_SET_CHILD_SUBREAPER = 36
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOWN_ROWS = 500  # rows of each kind kept for the display: a run may take weeks


class StopRequested(Exception):
    """A signal asked the run to stop."""


class Supervisor:
    """Supervises one run to its end. Everything happens in the calling thread, which must be the main thread.

    Args:
        run_file: what to run; its directory exists, is locked by us and contains run.json.
        display: shows the run; updated about five times a second.
        commands: starts the processes; default: the real ones.
    """

    def __init__(self, run_file: RunFile, display: Display, commands: Commands | None = None) -> None:
        self._file = run_file
        self._run = run_file.directory
        self._display = display
        self._commands = commands or Commands(run_file)
        self._recent = RunHistory(self._run.metrics, recent=_SHOWN_ROWS)
        self._redis: EmbeddedRedis | None = None
        self._redis_url = run_file.queue.url
        self._processes: dict[str, Process] = {}
        self._jobs: dict[str, Child] = {}
        self._signal: int | None = None
        self._signals = 0
        self._outcome = Outcome(started=time.time())
        self._phase = "preparing"
        self._evaluating: float | None = None  # time.monotonic() when only the evaluator was left
        self._recorded: list[dict[str, Any]] | None = None
        self._in_force: InForceFeed | None = None

    def run(self) -> Outcome:
        """Runs until every process has ended, for whatever reason; returns how the run ended."""
        ctypes.CDLL(None).prctl(
            _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0
        )  # orphans become our children, which kill_descendants finds
        previous = {number: signal.signal(number, self._on_signal) for number in _STOP_SIGNALS}
        try:
            self._start()
            self._until(self._finished)
        except StopRequested:
            self._outcome.signal = self._signal
        except (ProcessFailed, LeewayError) as error:
            self._outcome.failure = str(error)
        finally:
            self._stop()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._outcome

    @property
    def history(self) -> RunHistory:
        """Everything that the run has recorded, read from its files now."""
        return RunHistory(self._run.metrics).poll()

    def _start(self) -> None:
        issue_tokens(self._file)
        if self._file.makes_model and not (self._run.model / "config.json").is_file():
            self._jobs["model"] = self._commands.make_model()
        if self._file.queue.url == EMBEDDED:
            self._want("redis", self._start_redis)
        self._finish("model")
        plan = write_settings(self._file, self._redis_url)
        self._in_force = InForceFeed(plan.gateway.queue)
        if self._recent.poll().learner.last(1):
            self._reopen()
        self._want("gateway", self._commands.gateway)
        demonstrations = self._run.demonstrations.with_suffix(".part")
        if self._file.learner.warmup and not self._run.demonstrations.is_file():
            self._jobs["demonstrations"] = self._commands.make_demonstrations(demonstrations)
        for worker in plan.workers:
            self._want(worker.name, lambda name=worker.name: self._commands.worker(name))
        if self._file.evaluator is not None:
            self._want(self._file.evaluator, self._commands.evaluator)  # before the learner: it keeps the first version
        if "demonstrations" in self._jobs:
            self._finish("demonstrations")
            demonstrations.rename(self._run.demonstrations)
        self._want("learner", self._commands.learner)

    def _reopen(self) -> None:
        """Makes a resumed run that had finished take groups again: its workers would end before its learner is up."""
        queue = self._file.queue_config(self._redis_url, self._run.identity(self._file.run.name))
        with contextlib.suppress(QueueError):  # the learner does it too, when it begins
            reopen(queue.model_copy(update={"timeout_s": 1.0}))

    def _start_redis(self) -> Child:
        self._redis = self._own_redis()
        if self._redis_url not in (EMBEDDED, self._redis.url):
            raise ProcessFailed(
                f"redis: its port was taken while it was down; resume the run: leeway up {self._run.root} --resume"
            )
        self._redis_url = self._redis.url
        return self._redis.child

    def _own_redis(self) -> EmbeddedRedis:
        """Starts Redis. A command such as `leeway ledger` may have started one on the same data: it ends in a moment."""
        end = time.monotonic() + _OTHERS_REDIS_S
        while True:
            try:
                return EmbeddedRedis.start(
                    self._run.redis, self._file.queue.aof, maxmemory=self._file.queue.redis_memory
                )
            except ServedError:
                if time.monotonic() >= end:
                    raise
            if self._signal is not None:
                raise StopRequested
            time.sleep(_TICK_S)

    def _want(self, name: str, launch: Callable[[], Child]) -> None:
        log = self._run.redis / "redis.log" if name == "redis" else self._commands.log(name)
        self._processes[name] = Process(name, launch, log)
        self._processes[name].start()
        self._tick()

    def _finish(self, job: str) -> None:
        """Waits until a one-time job has ended. Raises ProcessFailed if it failed."""
        if job not in self._jobs:
            return
        child = self._jobs[job]
        self._until(lambda: child.exit_code() is not None)
        del self._jobs[job]
        if child.exit_code():
            raise ProcessFailed(f"{job}: {failure_reason(child.tail())} (log: {child.log})")

    def _finished(self) -> bool:
        if self._processes["learner"].state != "done":
            return False
        evaluator, section = self._processes.get(self._file.evaluator or ""), self._file.eval
        if evaluator is None or section is None or evaluator.state in ("done", "failed"):
            return True
        self._evaluating = self._evaluating or time.monotonic()
        limit_s = section.final_timeout_s + _EVALUATION_MARGIN_S
        if time.monotonic() - self._evaluating > limit_s:
            self._outcome.not_evaluated = (
                f"evaluation had not ended {limit_s:.0f} s after training (eval.final_timeout_s)"
            )
            return True
        return False

    def _may_finish(self, name: str) -> bool:
        """Whether exit status 0 means that a process is done: workers and evaluator, when the run has made all its steps."""
        if name in ("learner", "gateway", "redis"):
            return name == "learner"
        if name == self._file.evaluator and "learner" in self._processes and self._processes["learner"].state == "done":
            return True
        made = self._recent.learner.last(1)
        return bool(made) and made[-1]["step"] >= self._file.learner.steps

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            if self._signal is not None:
                raise StopRequested
            self._recent.poll()  # a worker ends soon after the last step
            for name, process in self._processes.items():
                self._check(name, process)
            self._tick()
            time.sleep(_TICK_S)

    def _check(self, name: str, process: Process) -> None:
        """Looks after a process. Raises ProcessFailed; an evaluator that fails for good does not end a run that trains."""
        try:
            process.check(may_finish=self._may_finish(name))
        except ProcessFailed as error:
            if name != self._file.evaluator or not self._recent.learner.last(1):
                raise
            process.state = "failed"
            self._outcome.not_evaluated = str(error)

    def _tick(self) -> None:
        recent = self._recent.poll()
        if self._phase != "stopping":
            self._phase = "evaluating" if self._evaluating else recent.learner.phase(self._outcome.started)
        now = time.monotonic()
        views = [ProcessView(job, "working", child.pid, 0, 0.0) for job, child in self._jobs.items()]
        for process in self._processes.values():
            pid = process.child.pid if process.child and process.state == "running" else None
            views.append(ProcessView(process.name, process.state, pid, process.restarts, now - process.started))
        in_force = None if self._in_force is None else self._in_force.read()
        self._display.update(RunView(self._phase, views, recent, self._outcome.started, in_force))
        self._record([{"name": view.name, "pid": view.pid, "restarts": view.restarts} for view in views])

    def _record(self, rows: list[dict[str, Any]]) -> None:
        """Writes processes.json when a process has changed, for `leeway status`."""
        if rows == self._recorded:
            return
        self._recorded = rows
        temporary = self._run.processes.with_suffix(".tmp")
        temporary.write_text(json.dumps(rows) + "\n")
        temporary.replace(self._run.processes)

    def _stop(self) -> None:
        self._outcome.stopping = time.time()
        self._outcome.restarts = {process.name: process.restarts for process in self._processes.values()}
        self._phase = "stopping"
        self._in_force = None  # Redis ends too
        self._signals = 0
        for child in self._jobs.values():
            child.kill()
        self._jobs.clear()
        workers = [name for name in self._processes if name not in ("learner", "gateway", "redis")]
        self._end(dict.fromkeys(workers, _WORKER_GRACE_S) | {"learner": self._file.learner.stop_grace_s})
        self._end({"gateway": _GATEWAY_GRACE_S})
        self._outcome.ledgers = self._read_ledgers()
        self._end({"redis": _REDIS_GRACE_S})
        kill_descendants()
        self._tick()
        self._outcome.ended = time.time()

    def _end(self, graces: dict[str, float]) -> None:
        """Stops processes: sends SIGTERM to all, and SIGKILL to the session of each whose grace period is over.

        Args:
            graces: the grace period of each process in seconds, by name. A second Ctrl-C ends all of them.
        """
        processes = [(self._processes[name], grace_s) for name, grace_s in graces.items() if name in self._processes]
        waiting = [(process.child, grace_s) for process, grace_s in processes if process.child is not None]
        began = time.monotonic()
        for child, _ in waiting:
            child.terminate()
        while waiting:
            for child, grace_s in list(waiting):
                if self._signals or child.exit_code() is not None or time.monotonic() - began > grace_s:
                    child.kill()
                    waiting.remove((child, grace_s))
            self._tick()
            time.sleep(_END_TICK_S if waiting else 0.0)
        for process, _ in processes:
            process.state = "done" if process.state == "done" else "stopped"

    def _read_ledgers(self) -> list[rollout_pb2.Ledger] | None:
        if "gateway" not in self._processes:
            return None
        try:
            queue = self._file.queue_config(self._redis_url, self._run.identity(self._file.run.name))
            return ledgers_in(queue.model_copy(update={"timeout_s": 1.0}))
        except QueueError:
            return None  # Redis itself has died; `leeway ledger` reads its append-only file

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._signals += 1


def kill_descendants() -> None:
    """Kills all descendants of this process and waits until they are gone."""
    for _ in range(5):  # a killed process may have just started another one
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)
