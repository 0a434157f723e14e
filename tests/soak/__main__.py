"""`python -m tests.soak --minutes N`: runs the demo for a long time, changes it, and reports whether anything in it grows.

Exit status: 0 flat and balanced, 1 not, 2 the run did not get going.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from learner.cli.run.run_directory import RunDirectory
from learner.cli.view import ledger as accounts
from tests.soak.probe import Probe
from tests.soak.slope import judge, restarts
from tests.soak.soak_operator import SoakOperator
from tests.soak.table import show

REPOSITORY = Path(__file__).parents[2]
_ENDED = "the run ended by itself"
_EVERY_S, _START_S, _STOP_S = 10.0, 600.0, 90.0
# Ids of finished groups are remembered for a day by default: two minutes here, so that their number stands still.
_SETTINGS = ("learner.steps=1000000000", "learner.optimizer.decay=constant", "queue.id_memory_s=120")


def main() -> int:
    """Starts a run, samples it, stops it, and prints the verdict."""
    options = _options()
    directory = RunDirectory.at(options.dir)
    settings = [f"run.dir={directory.root}", "run.name=soak", "run.overwrite=true", *_SETTINGS, *options.set]
    directory.root.parent.mkdir(parents=True, exist_ok=True)
    output = directory.root.with_suffix(".out")
    samples_file = directory.root.with_suffix(".samples.jsonl")
    flags = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "learner.cli.app", "up", str(REPOSITORY / "configs/demo.toml"), *flags]
    with output.open("w") as out:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    stop, operator = _Stop(), SoakOperator(directory, options.changes * 60)
    samples: list[dict[str, float]] = []
    try:
        if not _steps_begin(process, directory, stop):
            print(f"the run did not get going:\n{output.read_text()[-4000:]}")
            return 2
        operator.start()
        with samples_file.open("w") as file:
            for sample in _sample(Probe(directory, process.pid), process, directory, options.minutes * 60, stop):
                samples.append(sample)
                file.write(json.dumps(sample) + "\n")
        operator.stop()
        alive = process.poll() is None
    finally:
        _end(process)
    if not alive:
        print(f"the run ended by itself:\n{output.read_text()[-4000:]}")
    print(f"changes by an operator: {operator.applied} applied, {len(operator.problems)} not")
    return _verdict(samples, options.warmup * 60, directory, [*operator.problems, *([] if alive else [_ENDED])])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training; default: %(default)s")
    parser.add_argument("--warmup", type=float, default=None, help="minutes not judged; default: a third, 3 at least")
    parser.add_argument(
        "--changes",
        type=float,
        default=2.0,
        help="minutes between changes by an operator, 0: none; default: %(default)s",
    )
    parser.add_argument("--dir", type=Path, default=Path("runs/soak"), help="the run's directory; default: %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as of leeway up")
    options = parser.parse_args()
    if options.warmup is None:
        options.warmup = max(3.0, options.minutes / 3)
    if options.warmup >= options.minutes:
        parser.error(f"--minutes {options.minutes:g} leaves nothing after a warm-up of {options.warmup:g}")
    return options


class _Stop:
    """Flag that Ctrl-C sets: it ends the soak early, and the samples so far are judged."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def _steps_begin(process: subprocess.Popen[bytes], run: RunDirectory, stop: _Stop) -> bool:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline and not stop.requested:
        if _step(run):
            return True
        time.sleep(0.5)
    return False


def _sample(probe: Probe, process: subprocess.Popen[bytes], run: RunDirectory, seconds: float, stop: _Stop):
    started = time.monotonic()
    said = 0.0
    while process.poll() is None and not stop.requested:
        now = time.monotonic() - started
        if now >= seconds:
            return
        sample = {"time": round(now, 2), "step": float(_step(run)), **probe.take()}
        yield sample
        if now >= said:
            said += 60.0
            memory = sum(value for name, value in sample.items() if name.endswith("|USS"))
            print(f"[{now / 60:5.1f} min] step {sample['step']:.0f}, {memory:,.0f} MB in all processes", flush=True)
        time.sleep(max(0.0, min(_EVERY_S, seconds - now)))


def _step(run: RunDirectory) -> int:
    """Number of the last whole step row; 0 before there is one."""
    try:
        with (run.metrics / "learner.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 65_536))
            lines = file.read().split(b"\n")[1:-1]
    except FileNotFoundError:
        return 0
    rows = (json.loads(line) for line in reversed(lines))
    return next((row["step"] for row in rows if row.get("kind") == "step"), 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _verdict(samples: list[dict[str, float]], warmup_s: float, run: RunDirectory, problems: list[str]) -> int:
    findings = judge(samples, warmup_s)
    show(findings, samples, warmup_s)
    problems += [f"{name} restarted {count} times" for name, count in restarts(samples, warmup_s).items()]
    problems += [f"{one.owner}: {one.measure} is not {one.limit.rule}" for one in findings if one.passes is False]
    if not any(one.slope is not None for one in findings):
        problems.append("too few samples to judge")
    ledgers = accounts.ledgers_of(run)
    problems += accounts.violations(ledgers)
    found = accounts.recount_of(run)
    problems += [one.text for one in found.discrepancies]
    for ledger in ledgers:
        print(
            f"ledger of {ledger.fleet}: accepted {ledger.accepted:,}, trained {ledger.trained:,}, expired {ledger.expired:,}"
        )
    print("\n".join(problems) if problems else "flat, and the ledger is balanced")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
