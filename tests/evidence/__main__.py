"""`python -m tests.evidence`: measures objectives, staleness and the control of the learning rate; `make evidence`.

Runs on the product's own learner and objectives, one process a run, with generation in process. A run whose result is known
is not made again, so that it can be stopped and started at will. Then it prints the table, and writes docs/evidence.md, the
figures and evidence/results.json. `--short` takes minutes, keeps a cache of its own, and writes into that cache only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.evidence.figures import law_figure, staleness_figure
from tests.evidence.grid import Part, parts, short_parts, unique
from tests.evidence.law import law_curves
from tests.evidence.page import page
from tests.evidence.results import Results, write_whole
from tests.evidence.runner import Runner

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> int:
    """Runs what has no result yet, then reports. Exit status: 0, 1 if a run failed, 130 after Ctrl-C."""
    options = _options(arguments)
    cache = options.cache or ROOT / "runs" / ("evidence-short" if options.short else "evidence")
    wanted = short_parts() if options.short else parts()
    directory = cache if options.short else ROOT / "evidence"
    results = Results(cache / "results", directory / "results.json")
    runner = Runner(results, cache, options.jobs, lambda line: print(line, flush=True))
    try:
        runner.run(unique(wanted), None if options.hours is None else options.hours * 3600)
    except KeyboardInterrupt:
        print("\nstopped; what has been run is kept: the same command goes on from there")
        return 130
    report(wanted, results, directory, cache / "evidence.md" if options.short else ROOT / "docs" / "evidence.md")
    for cell in runner.failed:
        print(f"failed: {cell}")
    return int(bool(runner.failed))


def report(wanted: Sequence[Part], results: Results, directory: Path, document: Path) -> None:
    """Prints the page, and writes it, the compact results and the figures.

    Args:
        wanted: the parts, of which not everything need have been run.
        results: the results.
        directory: where results.json and the figures are written.
        document: where the page is written.
    """
    results.write(directory / "results.json", unique(wanted))
    for part in wanted:
        if part.name == "core":
            staleness_figure(part.cells, results, directory / "staleness.svg")
        elif part.name == "law":
            curves = law_curves(part.cells, results)
            if curves:
                law_figure(curves, directory / "law.svg")
    text = page(wanted, results)
    write_whole(document, text)
    print(f"\n{text}\nwritten: {document}, {directory}/results.json and the figures beside it")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.evidence", description="Objectives by staleness, measured.")
    parser.add_argument("--hours", type=float, help="start no further run after so many hours")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--short", action="store_true", help="a few runs of 100 steps: under ten minutes")
    parser.add_argument("--cache", type=Path, help="directory of results and warm-started policies")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
