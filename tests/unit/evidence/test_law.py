"""The largest stable rates and what follows from them, on runs with a known limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evidence.grid import cell
from tests.evidence.law import law_curves, law_verdict, limits_table, rewards_table
from tests.evidence.results import Results
from tests.unit.evidence.test_results import row

_RATES = [1e-4 * 2**power for power in range(8)]


def _results(path: Path, limits: dict[int, float]) -> tuple[list, Results]:
    """Runs that end at 0.8 up to a limit and at 0 beyond it; the norm of an update is 100 times the rate."""
    cells = [cell("grpo", "plain", rate, "sort", lag, 0) for lag in limits for rate in _RATES]
    for one in cells:
        assert isinstance(one.staleness, int)
        final = 0.8 if one.lr <= limits[one.staleness] else 0.0
        known = row(one, final)
        (path / f"{one.key}.json").write_text(
            json.dumps(known | {"curves": known["curves"] | {"update_per_lr": [100.0]}})
        )
    return cells, Results(path, path / "none")


def test_a_rate_that_falls_as_one_over_the_staleness_has_the_power_minus_one(tmp_path: Path):
    cells, results = _results(tmp_path, {4: 6.4e-3, 16: 1.6e-3, 64: 4e-4})
    (curve,) = law_curves(cells, results)
    # 0.9 of 0.8 lies an eighth... a tenth of the way to the next rate: 2 ** 0.1 beyond the limit.
    assert curve.limits()[16] == pytest.approx(1.6e-3 * 2**0.1)
    assert curve.exponent() == pytest.approx(-1.0)
    assert law_verdict([curve]) == "- About as 1/S (power within 0.25 of -1): grpo, plain (-1.00)."
    last = limits_table([curve]).splitlines()[-1]
    assert last == "| grpo, plain | 6.9e-03 | 1.7e-03 | 4.3e-04 | -1.00 | 2.74 (S=4), 2.74 (S=16), 2.74 (S=64) |"


def test_a_staleness_of_which_few_rates_were_run_says_nothing(tmp_path: Path):
    cells, _ = _results(tmp_path, {0: 1e-3, 16: 1e-3})
    for one in cells:
        if one.staleness == 16 and one.lr not in _RATES[:4]:
            (tmp_path / f"{one.key}.json").unlink()
    (curve,) = law_curves(cells, Results(tmp_path, tmp_path / "none"))
    assert list(curve.rewards) == [0]
    assert (
        law_curves([one for one in cells if one.staleness == 16], Results(tmp_path / "none", tmp_path / "none")) == []
    )
    assert law_verdict([]) == "Too little was run."


def test_a_limit_that_was_not_reached_is_called_beyond(tmp_path: Path):
    cells, results = _results(tmp_path, {0: 1.0, 16: 1.6e-3})
    (curve,) = law_curves(cells, results)
    assert curve.exponent() is None
    assert law_verdict([curve]) == "- Not known: grpo, plain."
    assert limits_table([curve]).splitlines()[-1].startswith("| grpo, plain | beyond | 1.7e-03 | - |")
    assert "| grpo, plain, S=16 | 0.80 |" in rewards_table([curve])
