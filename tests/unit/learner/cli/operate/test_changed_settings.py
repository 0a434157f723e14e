"""Names of settings may be short where that is clear, and values are read as --set reads them."""

from __future__ import annotations

import pytest

from learner.cli.operate.changed_settings import assignments, full_name
from learner.cli.run.run_directory import RunError
from learner.config.changeable import changeable


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("lr", "optimizer.lr"),
        ("learner.optimizer.lr", "optimizer.lr"),
        ("rho_max", "objective.rho_max"),
        ("steps", "steps"),
        ("weights.tokyo", "weights.tokyo"),
        ("quotas.tokyo.groups_per_s", "gateway.admission.quotas.tokyo.groups_per_s"),
        ("quotas.eu.west-1.groups_per_s", "gateway.admission.quotas.eu.west-1.groups_per_s"),
        ("objective.name", "objective.name"),
        ("tokyo", "tokyo"),
    ],
)
def test_a_short_name_means_the_only_setting_that_ends_so(name: str, whole: str):
    assert full_name(name) == whole


def test_every_whole_name_means_itself():
    assert [full_name(name) for name in changeable()] == changeable()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["lr"], "expected NAME=VALUE"),
        (["=3"], "expected NAME=VALUE"),
        (["every=3"], "'every' may be checkpoint.every or publish.every"),
        (["lr=1", "optimizer.lr=2"], "optimizer.lr is given twice"),
        (["lr=nan"], "expected a number, text, true, false or a list"),
    ],
)
def test_words_that_are_no_assignments(texts: list[str], words: str):
    with pytest.raises(RunError, match=words):
        assignments(texts)


def test_values_become_json():
    found = assignments(["lr=1e-5", "weights.tokyo = 2", "steps=30", "alarms.rho=warn"])
    assert found == {"optimizer.lr": "1e-05", "weights.tokyo": "2", "steps": "30", "alarms.rho": '"warn"'}
