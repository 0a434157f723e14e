"""The table of objectives against the registry, the classes, the configuration and the documentation."""

import re
from pathlib import Path

import pytest

from learner import objectives
from learner.config.objective import ObjectiveConfig
from learner.config.objectives_table import OBJECTIVES
from learner.objectives.registry import BUILDERS

DOCUMENT = Path(__file__).parents[4] / "docs" / "objectives.md"
GENERAL = {"name", "preset", "advantage", "mean", "kl_coef", "kl_estimator", "entropy_coef", "options"}


def test_the_registry_builds_exactly_the_names_of_the_table():
    assert BUILDERS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_needs_what_its_entry_says(name: str):
    entry, chosen = OBJECTIVES[name], objectives.get(ObjectiveConfig(name=name))
    assert (chosen.needs_behaviour, chosen.needs_reference) == (entry.needs_behaviour, entry.needs_reference)
    if entry.accepts_terms:
        assert objectives.get(ObjectiveConfig(name=name, kl_coef=0.1)).needs_reference


def test_every_field_of_the_configuration_is_general_or_some_objectives_constant():
    constants = set[str]().union(*(entry.constants for entry in OBJECTIVES.values()))
    assert constants | GENERAL == ObjectiveConfig.model_fields.keys()
    assert not constants & GENERAL


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_entry_is_one_sentence_and_names_a_source(name: str):
    entry = OBJECTIVES[name]
    assert entry.summary.endswith(".")
    assert "\n" not in entry.summary
    assert len(entry.summary) <= 110
    assert entry.source


def test_the_documentation_has_a_section_for_each_objective_and_for_no_other():
    headings = re.findall(r"^### `(\w+)`", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_documentation_names_the_paper_and_every_constant_of_an_objective(name: str):
    entry = OBJECTIVES[name]
    section = re.split(r"^###? ", DOCUMENT.read_text().split(f"### `{name}`")[1], maxsplit=1, flags=re.MULTILINE)[0]
    for number in re.findall(r"\d{4}\.\d{5}", entry.source):
        assert number in section
    for constant in entry.constants:
        assert f"`{constant}`" in section
