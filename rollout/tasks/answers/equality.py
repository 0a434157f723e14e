"""Whether an answer means what the reference means: numbers, lists, words, and formulas by math-verify."""

from __future__ import annotations

import re

from rollout.tasks.answers.formula import bare_formula, compact, container_of, elements_of, nesting
from rollout.tasks.answers.numbers import NumberText, equal_numbers, find_numbers, merge_digit_groups, read_number
from rollout.tasks.reward_error import RewardError

_LONGEST, _DEEPEST, _MOST_DIGITS = 2000, 40, 300
_EQUALS = re.compile(r"(?<![<>!\\=:])=(?!=)|\\(?:equiv|in)(?![A-Za-z])")
_NAME = re.compile(r"(?:\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([a-z]\))?|[A-Za-z ]{1,60})")
_VARIABLE = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_CHOICE = re.compile(r"\(?([A-Za-z])[).:]")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_LONG_WORD = re.compile(r"[A-Za-z]{2,}")
_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "log", "ln", "exp", "sqrt"),
        *("max", "min", "gcd", "lcm", "mod", "det", "lim"),
    )
)
# Words after which a number is not the answer itself.
_QUALIFIED = re.compile(
    r"\b(?:not|no|none|less|more|greater|fewer|least|most|than|over|under|between|below|above|or|either|except|never|cannot|"
    r"undefined)\b|n't",
    re.IGNORECASE,
)
_QUALIFIED_AFTER = re.compile(
    r"\b(?:or|and an? half|less|more|greater|fewer|over|above|squared|cubed)\b", re.IGNORECASE
)
_RANGE = re.compile(r"\s*(?:to|-)\s*(?=[$\d])")
_OPERATOR = re.compile(r"[+*/^=<>|_!]|\\(?!\$|%|text|mathrm|,|;|:|!| |quad)|-(?=\s*\d)|\d\s*-|[\[(]\s*-?\d+\s*,")
_MINUS_WORD = re.compile(r"\b(?:minus|negative)\s+(?=\$?\d)", re.IGNORECASE)
_TOWER = re.compile(r"(?:\^|\*\*)\s*[{(]?\s*-?\d+\s*(?:\^|\*\*)|(?:\^|\*\*)\s*[{(]?\s*-?\d{5,}|!\s*\)?\s*!|\d{4,}\s*!")
_HUGE = re.compile(rf"\d{{{_MOST_DIGITS}}}")


def equal_answers(gold: str, found: str, loose: bool = False) -> bool:
    """Whether an answer means the same as the reference.

    Args:
        gold: the reference.
        found: the answer, as it was written.
        loose: it is a part of a sentence, whose first number counts.

    Raises:
        RewardError: it is too long, too deep or too large to be compared.
    """
    if len(found) > max(_LONGEST, 2 * len(gold)) or nesting(found) > _DEEPEST:
        raise RewardError(
            "unjudgeable", f"an answer of {len(found)} characters, nested {nesting(found)} deep, is too large"
        )
    gold, found = bare_formula(gold), bare_formula(_MINUS_WORD.sub("-", found))
    if not found:
        return False
    if compact(gold) == compact(found):
        return True
    number = read_number(gold, decimal_comma=False)
    if number is not None:
        return _is_number(number, gold, found, loose)
    if _WORDS.fullmatch(gold):
        return _same_words(gold, found)
    listed = _equal_lists(gold, found)
    if listed is not None:
        return listed
    return _equal_formulas(gold, _right_side(found) if _EQUALS.search(gold) is None else found)


def _is_number(gold: NumberText, gold_text: str, text: str, loose: bool) -> bool:
    """Whether a text is this number: alone, with its unit, on the right of an equation, within words, or as a formula."""
    sides = _EQUALS.split(text)
    if len(sides) > 1:
        equation, text = text, _right_side(text)
        if text == equation:
            return False
    text = bare_formula(text)
    number = read_number(text)
    if number is not None:
        return equal_numbers(gold, number)
    elements = elements_of(container_of(text)[1] if container_of(text)[0] == r"\{\}" else text)
    if len(elements) > 1 and all(read_number(bare_formula(_right_side(one))) is not None for one in elements):
        return all(equal_answers(gold_text, one) for one in elements)
    if len(elements) == 1 and elements[0] != text:
        return equal_answers(gold_text, elements[0])
    words = _COMMAND.sub(" ", text)
    if {word.lower() for word in _LONG_WORD.findall(words)} - _FUNCTIONS or loose:
        return _number_in_words(gold, text, loose)
    return _equal_formulas(gold_text, text)


def _number_in_words(gold: NumberText, text: str, loose: bool) -> bool:
    text = merge_digit_groups(text)
    found = find_numbers(text)
    if not found or (len(found) > 1 and not loose):
        return False
    begin, end = found[0]
    number = read_number(text[begin:end])
    if number is None:
        return False
    if _QUALIFIED.search(text[:begin]) or _QUALIFIED_AFTER.search(text[end : end + 30] if loose else text[end:]):
        return False
    if loose:
        return _RANGE.match(text[end:]) is None and equal_numbers(gold, number)
    around = text[:begin] + " " + text[end:]
    return _OPERATOR.search(around) is None and equal_numbers(gold, number)


def _same_words(gold: str, found: str) -> bool:
    found = _right_side(found) if "=" in found else found
    kind, inside = container_of(found)
    found = bare_formula(inside if kind == "()" else found)
    if len(gold) == 1 and (choice := _CHOICE.match(found)) is not None:  # "B) Paris"
        found = choice[1]
    return compact(gold).casefold() == compact(found).casefold()


def _equal_lists(gold: str, found: str) -> bool | None:
    """Compares two lists, tuples, sets or intervals; None where the reference is none of them."""
    gold_kind, gold_inside = container_of(gold)
    found_kind, found_inside = container_of(_right_side(found) if len(_EQUALS.split(found)) == 2 else found)
    golds = _each_sign(elements_of(gold_inside))
    if len(golds) < 2 and gold_kind != r"\{\}":
        return None
    if not found_kind:
        found_inside = found
    founds = _each_sign(elements_of(found_inside))
    if gold_kind and found_kind and gold_kind != found_kind:
        return False
    ordered = (gold_kind or found_kind) not in ("", r"\{\}")
    if not ordered:
        founds = _distinct(founds)
        golds = _distinct(golds)
    if len(golds) != len(founds):
        return False
    if not ordered:
        return _same_elements(golds, founds)
    return all(_equal_elements(one, two) for one, two in zip(golds, founds, strict=True))


def _same_elements(golds: list[str], founds: list[str]) -> bool:
    left = list(founds)
    for gold in golds:
        match = next((one for one in left if _equal_elements(gold, one)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _equal_elements(gold: str, found: str) -> bool:
    if _EQUALS.search(gold) is not None and _EQUALS.search(found) is not None:
        return equal_answers(gold, found)
    return equal_answers(_right_side(gold), _right_side(found))


def _each_sign(elements: list[str]) -> list[str]:
    r"""The two values of each element with one \pm; others as they are."""
    values: list[str] = []
    for element in elements:
        parts = _PLUS_MINUS.split(element)
        values += [parts[0] + sign + parts[1] for sign in "+-"] if len(parts) == 2 else [element]
    return values


def _distinct(elements: list[str]) -> list[str]:
    return list({compact(element): element for element in elements}.values())


def _right_side(text: str) -> str:
    """What an equation says that something is: its right side, or the left one where the right one is a name.

    An equation in one unknown that is still to be solved (2x = 18) is left as it is.
    """
    sides = _EQUALS.split(text)
    if len(sides) < 2:
        return text
    left = sides[0].strip()
    if not _NAME.fullmatch(left) and len(set(_VARIABLE.findall(_COMMAND.sub(" ", left)))) == 1:
        return text
    if len(sides) == 2 and _NAME.fullmatch(sides[1].strip()) and not _NAME.fullmatch(sides[0].strip()):
        return sides[0].strip()
    return sides[-1].strip()


def _equal_formulas(gold: str, found: str) -> bool:
    found = merge_digit_groups(found) if read_number(gold) is not None else found
    if _TOWER.search(found) or _HUGE.search(found):
        raise RewardError("unjudgeable", f"the answer {found[:60]!r} is too large to be compared")
    from math_verify import LatexExtractionConfig, parse, verify  # imports sympy: only where a response is scored

    # Its own time limits are alarms on the wall clock that turn an answer into a wrong one, right or not, when the CPU is
    # taken away. The limit here is reward_timeout_s of the process that judges: such a response is not scored at all.
    how = [LatexExtractionConfig()]
    golds, founds = (
        parse(f"${text.replace('$', ' ').replace(chr(10), ' ')}$", how, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        for text in (gold, found)
    )
    return bool(founds) and verify(golds, founds, timeout_seconds=None)
