"""Templates of prompts."""

from __future__ import annotations

import pytest

from rollout.tasks.dataset.template import PromptTemplate


def test_columns_are_put_in_as_they_are_and_double_braces_are_braces():
    template = PromptTemplate("{q}\n{extra.hint}{q}: give it in \\boxed{{}}.")
    assert template.columns == ("q", "extra.hint")
    values = {"q": "2+{x}?", "extra.hint": "{q}"}  # braces of a value are no places
    assert template.fill(values.__getitem__) == "2+{x}?\n{q}2+{x}?: give it in \\boxed{}."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{q", "expected '}' before end of string"),
        ("q}", "Single '}' encountered"),
        ("\\boxed{} {q}", "a place without the name of a column"),
        ("{q:>5}", "{q} says how to format it"),
        ("{q!r}", "{q} says how to format it"),
        ("the same for all", "no column in it"),
    ],
)
def test_a_malformed_template_is_refused(text: str, why: str):
    with pytest.raises(ValueError, match="write the name of a column in braces") as error:
        PromptTemplate(text)
    assert str(error.value).startswith(f"template = {text!r}: ")
    assert why in str(error.value)
