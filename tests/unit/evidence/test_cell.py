"""Keys of cells: equal for equal runs, different for others, and the same in every process and version of Python."""

from __future__ import annotations

import pytest

from runtime.settings import SettingsError
from tests.evidence.cell import Cell

_CELL = Cell(task="sort", objective="spo", constants={"spo_alpha": 0.1, "advantage": "std"}, lr=1e-3, seed=3)


def test_the_key_of_a_known_cell_does_not_change():
    assert _CELL.key == "49c2c96c65d29223"


def test_a_default_that_is_written_out_is_the_same_run():
    assert _CELL.model_copy(update={"steps": 200}).key == _CELL.key
    reordered = Cell(task="sort", objective="spo", constants={"advantage": "std", "spo_alpha": 0.1}, lr=1e-3, seed=3)
    assert reordered.key == _CELL.key
    assert Cell.model_validate(_CELL.settings) == _CELL


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"lr": 2e-3}, {"staleness": "mixed"}, {"average": 0.9}, {"governed": True}, {"constants": {}},
     {"task": "add"}, {"steps": 100}, {"drift_target": 0.2}, {"dtype": "bfloat16"}, {"model": "demo"}],
)  # fmt: skip
def test_whatever_decides_a_run_is_in_its_key(change: dict[str, object]):
    assert Cell.model_validate(_CELL.settings | change).key != _CELL.key


def test_an_unknown_setting_and_another_format_are_refused():
    with pytest.raises(SettingsError, match="stalenes"):
        Cell.parse(_CELL.settings | {"stalenes": 4}, "cell")
    with pytest.raises(SettingsError, match="format"):
        Cell.parse(_CELL.settings | {"format": 0}, "cell")


def test_the_arm_says_what_is_on():
    arms = [_CELL.model_copy(update=on).arm for on in ({}, {"average": 0.9}, {"governed": True})]
    assert [*arms, _CELL.model_copy(update={"average": 0.9, "governed": True}).arm] == [
        "plain", "averaged", "governed", "both",
    ]  # fmt: skip
