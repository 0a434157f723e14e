"""Numbers as they are written."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rollout.tasks.answers.numbers import NumberText, equal_numbers, find_numbers, read_number
from rollout.tasks.reward_error import RewardError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", NumberText(Fraction(18))),
        ("-3.50", NumberText(Fraction(-7, 2), decimals=True)),
        ("$1,234", NumberText(Fraction(1234), unit="$")),
        ("18 cm", NumberText(Fraction(18), unit="cm")),
        ("18 apples", NumberText(Fraction(18))),
        ("12.5%", NumberText(Fraction(25, 2), percent=True, decimals=True)),
        ("1 1/2", NumberText(Fraction(3, 2))),
        ("2e-3", NumberText(Fraction(1, 500))),
        ("0.1\\overline{6}", NumberText(Fraction(1, 6))),
        ("3 hundred", NumberText(Fraction(300))),
    ],
)
def test_a_number_is_read_exactly(text: str, number: NumberText):
    assert read_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "x", "18x", "2^3", "1,2,3", "3 + 4", "18 or 19", "1/0", "--", "18 less", "5!", "3:30", "1-2", "18 19"]
)
def test_what_is_more_or_less_than_a_number_is_none(text: str):
    assert read_number(text) is None


def test_numbers_within_a_text():
    text = "From $5 to 7.5%, v2 and -3, 10-4, x=-1/2"
    assert [text[begin:end] for begin, end in find_numbers(text)] == ["$5", "7.5%", "-3", "10", "4", "-1/2"]


@pytest.mark.parametrize(
    ("gold", "found", "equal"),
    [
        ("50%", "50", True), ("50%", "0.5", True), ("0.5", "50%", True), ("50", "0.5", False), ("5 km", "5 m", False),
        ("5 km", "5", True), ("1/3", "0.333333", True), ("1/3", "0.3333", False), ("0.0000001", "0", False),
        ("12345678", "12345679", False), ("0.1", "1/10", True),
    ],
)  # fmt: skip
def test_numbers_are_equal_by_value_sign_and_unit(gold: str, found: str, equal: bool):
    one, two = read_number(gold), read_number(found)
    assert one is not None
    assert two is not None
    assert equal_numbers(one, two) is equal


@pytest.mark.parametrize("text", ["9" * 4001, "1e10001", "10^{99999}", "1.5 \\times 10^{1" + "0" * 5000 + "}"])
def test_what_is_too_large_is_not_compared(text: str):
    with pytest.raises(RewardError) as error:
        read_number(text)
    assert error.value.reason == "unjudgeable"
