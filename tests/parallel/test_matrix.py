"""The equivalence matrix has no cell off, and catches planted errors; `python -m tests.parallel.matrix` prints it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from tests.parallel.cells import behaviour_free, layouts, objectives
from tests.parallel.matrix import LIMITS, run
from tests.parallel.reference import FORMULAS, MODELS, prompts


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run([*layouts(), *objectives()], tmp_path_factory.mktemp("matrix"))


def test_every_cell_equals_the_reference(results):
    off = [(r.cell, r.real) for r in results if not r.equal]
    assert not off, f"limits {LIMITS}: {off}"


def test_a_planted_error_is_caught_in_every_column(results):
    missed = [(r.cell, r.planted) for r in results if not all(r.caught.values())]
    assert not missed, f"limits {LIMITS}: {missed}"
    assert {name for r in results for name in r.caught} == set(asdict(LIMITS))


def test_the_cells_cover_what_they_claim():
    cells = [*layouts(), *objectives()]
    assert set(FORMULAS) == set(behaviour_free()) == {cell.objective["name"] for cell in cells}
    assert {cell.model for cell in layouts()} == set(MODELS)
    assert {cell.recompute for cell in cells} == {"none", "selective", "full"}
    assert {cell.rows for cell in cells} == {"packed", "padded"}
    words = {word for cell in cells for word in cell.layout.split()}
    answers = [answer for prompt in prompts() for answer in prompt["answers"]]
    assert any(len(answer["cuts"]) == 2 for answer in answers)
    assert any(len(answer["more"]) == 2 for answer in answers)
    assert {bool(answer["tokens"]) for answer in answers if answer["unscored"]} == {True, False}
    assert min(sum(not answer["unscored"] for answer in prompt["answers"]) for prompt in prompts()) == 1
    assert words == {"TP1", "TP2", "TP4", "PP2", "PP4", "VPP2", "DP2", "DP4", "SP", "CP2", "CP4", "EP2", "EP4"}
