"""Docstrings stand alone: they can be read without the name beside them."""

from __future__ import annotations

import ast
import re

from tests.unit.repository.sources import Repository

# Each continues a sentence that the name is supposed to have begun.
_OPENER = re.compile(r"\s*(Of|The same|Among|One more|Held)\b")
_SENTENCE_END = re.compile(r"[.!?]\s+[A-Z]")
_LONGEST = 99


def test_no_docstring_opens_like_the_rest_of_a_sentence(repository: Repository):
    offenders = [
        f"{text.at(0)}: {text.value.strip().splitlines()[0]}"
        for module in repository.modules
        for text in module.docstrings()
        if _OPENER.match(text.value)
    ]
    assert not offenders, "\n".join(offenders)


def test_every_package_says_in_one_sentence_what_it_is_for(repository: Repository):
    offenders = [
        f"{module.path}: {fault}"
        for module in repository.product
        if module.is_package and (fault := _fault(ast.get_docstring(module.tree)))
    ]
    assert not offenders, "\n".join(offenders)


def _fault(docstring: str | None) -> str | None:
    first = docstring.strip().splitlines()[0] if docstring and docstring.strip() else None
    if first is None:
        return "no docstring"
    if len(first) > _LONGEST:
        return f"the first line has {len(first)} characters, expected at most {_LONGEST}: {first}"
    if not first.endswith((".", "!", "?")):
        return f"the first line is not a whole sentence: {first}"
    if _SENTENCE_END.search(first):
        return f"the first line is more than one sentence: {first}"
    return None
