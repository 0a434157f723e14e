"""Names and words that were given up because a reader had to be told what they mean."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest

from tests.unit.repository.sources import Repository, Text

_THIS_FILE = "tests/unit/repository/test_retired_names.py"

# fmt: off
_RETIRED = {
    "Arrival", "Claim", "Contents", "Desk", "Envelope", "Exchange", "Finisher", "Flusher", "GrpcMessages", "Instruments",
    "Journal", "Judges", "Kit", "Meters", "Opening", "Order", "Pace", "PublishedVersions", "PublishedWeights", "Seal",
    "Steering", "Surroundings", "Trail", "Vitals", "carry_out", "give_order", "once", "patiently", "proven", "vouch",
}
_RETIRED_MODULES = {
    "claim", "journal", "judge", "kit", "noise", "opening", "seal", "steering", "trail", "vitals",
}
# fmt: on
# In the fleet side these meant an engine and its pool; a fleet is who submits under one identity.
_RETIRED_IN_ROLLOUT = {"Fleet", "Member"}

_PRIVATE_WORDS = re.compile(
    r"\b(vouch(?:es|ed|ing)?|desks?|trails?|the law|steering|seal(?:s|ed|ing)?)\b", re.IGNORECASE
)
# Where a word has its ordinary meaning: (path, the word in lower case).
_ORDINARY = {
    ("CHANGELOG.md", "the law"),  # says what was called so
}


def test_no_class_function_or_module_has_a_retired_name(repository: Repository):
    offenders = []
    for module in repository.modules:
        retired = _RETIRED | (_RETIRED_IN_ROLLOUT if module.path.startswith("rollout/") else set())
        offenders += [
            f"{module.path}:{node.lineno}: {node.name}"
            for node in module.definitions()
            if node.name.lstrip("_") in retired
        ]
        if module.name.rpartition(".")[2].lstrip("_").removeprefix("test_") in _RETIRED_MODULES:
            offenders.append(f"{module.path}:1: {module.name}")
    assert not offenders, "\n".join(offenders)


@pytest.mark.parametrize("kind", ["python", "markdown"])
def test_no_text_uses_a_private_word(repository: Repository, kind: str):
    texts = repository.markdown() if kind == "markdown" else _strings(repository)
    offenders = [found for text in texts for found in _private_words(text)]
    assert not offenders, "\n".join(offenders)


def test_every_allowed_word_is_still_there(repository: Repository):
    texts = [*repository.markdown(), *_strings(repository)]
    used = {(text.path, match[0].lower()) for text in texts for match in _PRIVATE_WORDS.finditer(text.value)}
    assert used >= _ORDINARY


def test_no_two_modules_define_a_class_of_one_name(repository: Repository):
    places: dict[str, list[str]] = defaultdict(list)
    for module in repository.product:
        for node in module.definitions():
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{module.path}:{node.lineno}")
    shared = {name: found for name, found in places.items() if len({place.split(":")[0] for place in found}) > 1}
    assert not shared, "\n".join(f"{name}: {', '.join(found)}" for name, found in sorted(shared.items()))


def _strings(repository: Repository) -> list[Text]:
    return [text for module in repository.modules if module.path != _THIS_FILE for text in module.strings()]


def _private_words(text: Text) -> list[str]:
    lines = text.value.splitlines()
    return [
        f"{text.at(match.start())}: {match[0]!r} in {lines[text.value.count(chr(10), 0, match.start())].strip()[:120]}"
        for match in _PRIVATE_WORDS.finditer(text.value)
        if (text.path, match[0].lower()) not in _ORDINARY
    ]
