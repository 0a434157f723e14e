"""`leeway up` from start to end: prepares a run, supervises it, writes its summary and prints the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from learner.cli.run.outcome import Outcome
from learner.cli.run.run_file import RunFile
from learner.cli.run.summary import read_summary, summarize, write_summary
from learner.cli.up.joining import how_to_join
from learner.cli.up.prepare import open_run
from learner.cli.up.supervisor import Supervisor
from learner.cli.view.closing_summary import print_ledger, print_summary, print_warnings
from learner.cli.view.live import make_display
from learner.cli.view.samples import print_samples


def run_to_end(source: Path, overrides: Sequence[str], resume: bool, console: Console) -> int:
    """Runs ``leeway up`` to its end.

    Args:
        source: a TOML file, or a run directory (to resume it).
        overrides: changes of single settings, as ``section.key=value``.
        resume: continue where the run stopped.
        console: where everything is printed, apart from errors.

    Returns:
        The exit status: 0 finished, 1 failed, 128 + n stopped by signal n.

    Raises:
        SettingsError, RunError: nothing was started; the message says why.
    """

    def notify(text: str) -> None:
        console.print(escape(text), highlight=False, soft_wrap=True)

    prepared = open_run(source, overrides, resume, notify)
    run_file, restored = prepared.run_file, False
    run = run_file.directory
    for line in how_to_join(run_file, Path.cwd()):
        notify(line)
    with prepared.lock():
        with make_display(console, run_file) as display:
            supervisor = Supervisor(run_file, display)
            outcome = supervisor.run()
        history = supervisor.history
        summary = summarize(run_file, history, outcome, read_summary(run))
        write_summary(run, summary)
        if outcome.failure and not any(row["time"] >= outcome.started for row in history.learner.last(1)):
            restored = prepared.restore()
    if summary["steps"]:
        print_summary(console, summary, run.shown)
    else:
        print_warnings(console, summary)
    if outcome.not_evaluated:
        notify(f"warning: {outcome.not_evaluated}")
    print_samples(console, run)
    if outcome.ledgers:
        print_ledger(console, outcome.ledgers)
    return _conclude(console, run_file, outcome, restored)


def _conclude(console: Console, run_file: RunFile, outcome: Outcome, restored: bool) -> int:
    shown = run_file.directory.shown
    if outcome.failure:
        errors = Console(stderr=True, highlight=False)
        errors.print(f"[red]error: the run failed:[/red] {escape(outcome.failure)}", soft_wrap=True)
        if restored:
            errors.print(
                f"{shown}/run.json is as it was before this resume: no step was trained with the settings that --set changed",
                soft_wrap=True,
            )
        errors.print(f"logs: {shown}/logs · continue with: leeway up {shown} --resume", soft_wrap=True)
        return 1
    if outcome.signal:
        console.print(
            f"stopped; continue with: leeway up {shown} --resume  (the demo: make demo RESUME=1)", highlight=False
        )
        console.print(f"write a report of the run so far with: leeway report {shown}", highlight=False, soft_wrap=True)
        return 128 + outcome.signal
    from learner.cli.report.report import write_report  # imports matplotlib, which would delay the start

    report = write_report(run_file.directory)
    console.print(
        f"report: {shown}/{report.name} · summary: {shown}/summary.json · logs: {shown}/logs", highlight=False
    )
    return 0
