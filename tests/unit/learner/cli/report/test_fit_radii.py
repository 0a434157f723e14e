"""The radii of the staleness bound, from runs whose numbers are chosen so that the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from learner.cli.app import app
from learner.cli.report.fit_radii import Trial, collapse, describe, fit, read_trial
from learner.cli.run.run_directory import RunError
from tests.tools.runs import step, write_rows


def run(root: Path, lag: int, rate: float, growth: float = 10.0, collapses: int | None = None, steps: int = 60) -> Path:
    """Writes a run of ``steps`` steps whose reward falls from .8 to .1 at step ``collapses``."""
    rows = [
        step(
            number,
            reward=0.1 if collapses and number >= collapses else 0.8,
            staleness_max=lag,
            staleness_mean=lag / 2,
            lr=rate,
            update_norm=rate * growth,
        )
        for number in range(1, steps + 1)
    ]
    name = root / f"s{lag}_{rate:g}_{collapses}"
    write_rows(name / "metrics" / "learner.jsonl", rows)
    return name


def test_one_run_by_hand(tmp_path):
    trial = read_trial(run(tmp_path, lag=4, rate=0.01))
    assert (trial.staleness, trial.rate, trial.growth, trial.steps) == (4, pytest.approx(0.01), pytest.approx(10.0), 60)
    assert trial.drift == pytest.approx(0.4)  # 4 * 0.01 * 10
    assert trial.path == pytest.approx(6.0)  # 60 * 0.01 * 10
    assert trial.collapsed is None
    assert read_trial(run(tmp_path, lag=4, rate=0.01), "mean").drift == pytest.approx(0.2)


def test_a_collapse_ends_what_counts(tmp_path):
    trial = read_trial(run(tmp_path, lag=4, rate=0.01, collapses=31))
    assert trial.collapsed is not None
    assert 31 < trial.collapsed <= 40  # once the mean of ten steps has halved
    assert trial.path == pytest.approx(0.1 * trial.collapsed)


def test_steps_without_a_scored_response_are_no_collapse(tmp_path):
    name = run(tmp_path, lag=4, rate=0.01)
    unscored = [step(number, reward=None, update_norm=None) for number in range(61, 80)]
    write_rows(name / "metrics" / "learner.jsonl", unscored)
    assert (read_trial(name).collapsed, read_trial(name).steps) == (None, 60)


def test_collapse_needs_a_reward_to_fall_from_and_a_lasting_fall():
    rise, low = [0.1] * 10 + [0.8] * 20, [0.05] * 20
    at = list(enumerate([*rise, *low], 1))
    assert collapse(at) == 36  # half of .8 is .4: the mean of steps 26 to 35 is .425, of 27 to 36 .35
    assert collapse(list(enumerate([*rise, *low, *rise], 1))) is None
    assert collapse(list(enumerate([*rise, *low[:5]], 1))) is None
    assert collapse(list(enumerate([0.0] * 40, 1))) is None
    assert collapse([]) is None


def test_radii_of_a_grid_whose_bounds_are_known(tmp_path):
    """R_batch = 1 and R_crit = 20 by construction: some runs collapse because of either."""
    grid = [
        run(tmp_path, lag, rate) for lag, rate in ((1, 0.02), (4, 0.02), (16, 0.005))
    ]  # drifts .2 .8 .8, paths to 12
    grid += [
        run(tmp_path, lag, rate, collapses=11) for lag, rate in ((16, 0.0078125), (16, 0.04), (4, 0.1))
    ]  # from 1.25 up
    grid += [
        run(tmp_path, 1, rate, collapses=50, steps=90) for rate in (0.04, 0.05, 0.06)
    ]  # drift below .8, paths from 20
    batch, critical = fit([read_trial(path) for path in grid])
    assert (batch.stable, batch.collapsed) == (pytest.approx(0.8), pytest.approx(1.25))
    assert batch.estimate == pytest.approx(1.0)
    assert (batch.stable_runs, batch.collapsed_runs) == (3, 3)
    assert critical.stable == pytest.approx(12.0)
    assert critical.collapsed == pytest.approx(0.4 * 54, rel=0.05)
    assert critical.collapsed_runs == 3
    text = "\n".join(describe([], batch, critical))
    assert "R_batch = 1, between 0.8 and 1.25 (3 stable, 3 collapsed)" in text
    assert "r_batch = 1\nr_crit = " in text
    assert "too few" not in text


def trial(drift: float, path: float, collapsed: int | None = None) -> Trial:
    return Trial("t", 10, 1, 0.1, 1.0, drift, path, collapsed)


def test_too_few_runs_are_reported_as_too_few():
    text = "\n".join(describe([], *fit([trial(0.5, 1.0), trial(2.0, 1.0, 5)])))
    assert (
        "R_batch = 1, between 0.5 and 2 (1 stable, 1 collapsed; too few to trust: at least 3 of each are needed)"
        in text
    )
    assert "R_crit > 1: no run collapsed because of its path, so only a lower bound" in text
    assert "r_crit" not in text


def test_only_healthy_or_only_collapsed_runs_give_one_bound():
    assert "R_batch > 0.5: no run collapsed because of its drift" in "\n".join(describe([], *fit([trial(0.5, 1.0)])))
    text = "\n".join(describe([], *fit([trial(2.0, 1.0, 5)])))
    assert "R_batch < 2: no run below that was stable" in text
    assert "R_crit: unknown" in text
    assert "lr_control" not in text


def test_runs_without_update_norms_are_refused(tmp_path):
    write_rows(tmp_path / "old" / "metrics" / "learner.jsonl", [step(1)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="old: its steps have no update_norm"):
        read_trial(tmp_path / "old")
    with pytest.raises(RunError, match="empty: no steps in its metrics"):
        read_trial(tmp_path / "empty")


def test_command(tmp_path):
    paths = [str(run(tmp_path, 4, 0.01)), str(run(tmp_path, 16, 0.1, collapses=20))]
    done = CliRunner().invoke(app, ["fit-radii", *paths])
    assert done.exit_code == 0
    assert "collapsed at step" in done.output
    assert 'mode = "cap"' in done.output
    (tmp_path / "none").mkdir()
    assert CliRunner().invoke(app, ["fit-radii", str(tmp_path / "none")]).exit_code == 2
