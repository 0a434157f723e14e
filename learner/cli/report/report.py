"""`leeway report`: writes one self-contained HTML page about a run."""

from __future__ import annotations

import html
import string
from importlib import resources
from pathlib import Path

from learner.cli.report.changes_section import changes_section
from learner.cli.report.evaluation_section import evaluation_section
from learner.cli.report.flow_sections import throughput_section, time_section, waste_section
from learner.cli.report.learning_sections import (
    group_section,
    length_section,
    optimizer_section,
    reward_section,
    staleness_section,
)
from learner.cli.report.page import section
from learner.cli.report.rollouts_page import rollouts_section
from learner.cli.report.verdict import lead, verdict_cards, warning_list, worth_section
from learner.cli.run.evaluations import read_evaluations
from learner.cli.run.run_directory import RunDirectory
from learner.cli.run.run_file import RunFile
from learner.cli.run.run_history import RunHistory
from learner.cli.run.summary import read_summary


def write_report(run: RunDirectory) -> Path:
    """Writes report.html from the files in the run's directory; returns its path. Needs no running process.

    Raises:
        SettingsError: run.json is damaged.
        OSError: a file cannot be read or written.
    """
    run_file = RunFile.read(run.root)
    history = RunHistory(run.metrics).poll()
    evaluations = read_evaluations(run.metrics)
    summary = read_summary(run) or {}
    rows = list(history.learner.steps.values())
    settings = (
        f"<details><summary>run.json</summary><pre>{html.escape(run_file.model_dump_json(indent=2))}</pre></details>"
    )
    sections = [
        evaluation_section(evaluations),
        worth_section(run_file, evaluations),
        reward_section(rows),
        group_section(rows),
        length_section(rows),
        staleness_section(rows),
        throughput_section(history, run_file),
        time_section(history),
        waste_section(rows, summary.get("ledger")),
        optimizer_section(history.learner, run_file.learner.lr_control),
        changes_section(history.learner.changes),
        rollouts_section(run),
        section("Settings", f"<div class=panel>{settings}</div>"),
    ]
    write_page(
        run.report,
        name=run_file.run.name,
        lead=lead(run_file, summary, rows),
        top=warning_list(run_file, rows, evaluations, summary) + verdict_cards(summary, history, run_file, evaluations),
        sections="".join(sections),
    )
    return run.report


def write_page(path: Path, *, name: str, lead: str, top: str, sections: str) -> None:
    """Writes a page in the report's style, atomically.

    Args:
        path: where to.
        name: its title, as text.
        lead: a line below the title, as HTML.
        top: HTML before the first section.
        sections: HTML of the sections.
    """
    template = string.Template(resources.files("learner.cli.report").joinpath("report.html").read_text())
    text = template.substitute(name=html.escape(name), lead=lead, top=top, sections=sections)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
