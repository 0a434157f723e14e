"""Tests of the reason that a process leaves where Kubernetes shows it."""

from __future__ import annotations

import pytest

from runtime.logs import fatal
from runtime.termination import leave_reason


@pytest.fixture
def message(tmp_path, monkeypatch):
    place = tmp_path / "termination-log"
    place.touch()
    monkeypatch.setenv("LEEWAY_TERMINATION_LOG", str(place))
    return place


def test_a_reason_is_one_line_and_the_last_one_counts(message):
    leave_reason("learner.lr = -1: expected more than 0")
    leave_reason("learner.steps = 0: expected more than 0")
    assert message.read_text() == "learner.steps = 0: expected more than 0\n"


def test_a_reason_that_is_there_is_kept_by_who_knows_less(message):
    leave_reason("rank 3 ended with status 1", first=True)
    leave_reason("rank 0 ended with signal 15", first=True)
    assert message.read_text() == "rank 3 ended with status 1\n"


def test_what_is_fatal_is_the_reason(message):
    fatal("run.toml: no such file")
    assert message.read_text() == "run.toml: no such file\n"


def test_no_more_is_written_than_the_kubelet_keeps(message):
    leave_reason("x" * 10_000)
    assert message.stat().st_size == 4096


def test_without_a_place_nothing_is_written_and_a_place_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.delenv("LEEWAY_TERMINATION_LOG", raising=False)
    leave_reason("anything")
    monkeypatch.setenv("LEEWAY_TERMINATION_LOG", str(tmp_path / "absent" / "log"))
    leave_reason("anything")
    assert not list(tmp_path.iterdir())
