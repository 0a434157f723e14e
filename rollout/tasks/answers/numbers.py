"""Numbers as people and models write them: separators, fractions, percents, powers of ten, currencies and units."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rollout.tasks.answers.characters import plain_characters
from rollout.tasks.answers.units import UNIT_TEXT, known_unit
from rollout.tasks.reward_error import RewardError

_MOST_DIGITS = 4000  # Python itself converts no more than 4300
_LARGEST_EXPONENT = 10_000
_SEPARATOR = r"(?:\{?\s?\\[,;:!]\s?\}?|\{,\}(?:\\!)?|,\\[!,]|\\thinspace|\\ |~|[, '_])"
_GROUPED = re.compile(rf"(?<![\d.,])\d{{1,3}}(?P<mark>{_SEPARATOR})\d{{3}}(?:(?P=mark)\d{{3}})*(?![\d]|,\d)")
_INDIAN = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d]|,\d)")
_CONTINENTAL = re.compile(
    r"(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d+(?![\d.,])|(?<![\d.,])\d{1,3}(?: \d{3})+,\d{1,2}(?![\d.,])|"
    r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.,])"
)
_REPEATING = re.compile(r"(?<![\d.])(\d{0,100})\.(\d{0,100})\\(?:overline|bar)\s*\{?(\d{1,100})\}?")
_TEXT_FRACTION = re.compile(
    r"\\[dtc]?frac\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*\}\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*\}"
)
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+)\{?,\}?(\d{1,2}|\d{4,})(?![\d.,])")
_CURRENCY = r"(?:\\?\$|[€£¥₹₽₩¢]|\\(?:pounds|euro|text(?:dollar|sterling|euro))\b|US\\?\$|USD|EUR|GBP|Rs\.?)"
_PLAIN = r"(?:\d+(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(
    rf"\s*(?P<sign>[+-])?\s*(?P<currency>{_CURRENCY})?\s*(?P<sign2>[+-])?\s*(?:"
    r"(?:(?P<whole>\d+)(?:\s+|\s*(?=\\)))?(?:"
    rf"\\[dtc]?frac\s*\{{\s*(?P<top>-?\s*{_PLAIN})\s*\}}\s*\{{\s*(?P<bottom>-?\s*{_PLAIN})\s*\}}"
    r"|\\[dtc]?frac\s*(?P<top1>\d)\s*(?P<bottom1>\d)"
    rf"|(?P<top2>{_PLAIN})\s*/\s*(?P<bottom2>-?{_PLAIN}))"
    rf"|(?P<factor>{_PLAIN})\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<ten>[+-]?\d+)\s*\}}|\(?(?P<ten1>[+-]?\d+)\)?)"
    r"|10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<power>[+-]?\d+)\s*\}|(?P<power1>[+-]?\d+))"
    rf"|(?P<plain>{_PLAIN})(?:[eE](?P<exponent>[+-]?\d+))?"
    r")"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(rf"\s*(?:\\text\s*\{{\s*)?({'|'.join(_SCALES)})\b", re.IGNORECASE)
_PERCENT = re.compile(
    r"\s*(?:\\\s)?\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|per ?cent|percentage)\s*\}|(?:per ?cent|pct)\b)", re.IGNORECASE
)
_PERCENT_SIGN = re.compile(r"\s*(?:\\?%|per ?cent\b)")


@dataclass(frozen=True)
class NumberText:
    """A number as it was written.

    Attributes:
        value: as written, percents not divided.
        percent: whether a percent sign follows.
        decimals: it has a decimal point.
        unit: its unit where that is a known one, in its shortest form; empty: another one, or none.
    """

    value: Fraction
    percent: bool = False
    decimals: bool = False
    unit: str = ""


def read_number(text: str, decimal_comma: bool = True) -> NumberText | None:
    """Returns the number that a text is, with its unit; None where the text is anything else.

    Args:
        text: the text.
        decimal_comma: whether 2,3 is 2.3; else it is two numbers.

    Raises:
        RewardError: it has too many digits, or too large an exponent, to be compared.
    """
    text = merge_digit_groups(plain_characters(text), decimal_comma).strip()
    text = _TEXT_FRACTION.sub(r" \1/\2", _REPEATING.sub(_as_fraction, text))
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    found = _NUMBER.match(text)
    if found is None:
        return None
    value = _value(found)
    if value is None:
        return None
    rest = text[found.end() :]
    if (scale := _SCALE.match(rest)) is not None:
        value, rest = value * 10 ** _SCALES[scale[1].lower()], rest[scale.end() :].lstrip("}")
    percent = _PERCENT.match(rest)
    rest = rest if percent is None else rest[percent.end() :]
    unit = UNIT_TEXT.fullmatch(rest)
    if unit is None:
        return None
    written = known_unit(rest)
    if written is None:
        return None
    decimals = any("." in (found[part] or "") for part in ("plain", "factor", "top", "top2"))
    currency = "" if percent is not None else known_unit((found["currency"] or "").replace("\\", "")) or ""
    return NumberText(value, percent is not None, decimals, written or currency)


def find_numbers(text: str) -> list[tuple[int, int]]:
    """Returns where the numbers within a text begin and end, in order, percent signs included; other units are not."""
    found: list[tuple[int, int]] = []
    position = 0
    while (start := _BEGIN.search(text, position)) is not None:
        match = _NUMBER.match(text, start.start())
        if match is None:
            position = start.end()
            continue
        percent = _PERCENT_SIGN.match(text, match.end())
        position = match.end() if percent is None else percent.end()
        found.append((start.start(), position))
    return found


# A minus sign belongs to a number where nothing stands before it that it could subtract from.
_BEGIN = re.compile(rf"(?:(?<![\w)\]}}.$%])-\s?)?(?<![A-Za-z_\d])(?:{_CURRENCY}\s?)?(?:\d|\.\d|\\[dtc]?frac)")


def merge_digit_groups(text: str, decimal_comma: bool = True) -> str:
    r"""Returns a text whose numbers have no thousands separators: 1,234, 1\,234, 1 234, 1'234, 1{,}234, 1.234.567, 1.234,5.

    Args:
        text: the text.
        decimal_comma: whether a comma with one or two, or four or more digits after it is a decimal comma.
    """
    text = _CONTINENTAL.sub(lambda match: match[0].replace(".", "").replace(" ", "").replace(",", "."), text)
    text = _INDIAN.sub(lambda match: match[0].replace(",", ""), text)
    text = _GROUPED.sub(lambda match: match[0].replace(match["mark"], ""), text)
    return _DECIMAL_COMMA.sub(r"\1.\2", text) if decimal_comma else text


def equal_numbers(gold: NumberText, found: NumberText) -> bool:
    """Whether two numbers are equal.

    A percent is equal to its number without the sign and to its hundredth: people leave the sign out. Units are compared
    where both are known. A fraction and its decimal form are equal where six decimal places agree.
    """
    if gold.unit and found.unit and gold.unit != found.unit:
        return False
    if _close(gold, found):
        return True
    if gold.percent == found.percent:
        return False
    hundredth = NumberText(gold.value / 100, decimals=True) if gold.percent else gold
    other = NumberText(found.value / 100, decimals=True) if found.percent else found
    return _close(hundredth, other)


def _as_fraction(repeating: re.Match[str]) -> str:
    whole, head, tail = repeating[1], repeating[2], repeating[3]
    scale = 10 ** len(head) * (10 ** len(tail) - 1)
    return f"{int(whole + head + tail) - int(whole + head or '0')}/{scale}"


def _close(one: NumberText, two: NumberText) -> bool:
    if one.value == two.value:
        return True
    if not (one.decimals or two.decimals):
        return False
    # Rounding is for what cannot be written out, such as thirds; it must not make something of nothing.
    difference = abs(one.value - two.value)
    return difference < Fraction(1, 10**6) and abs(one.value) > Fraction(1, 10**3)


def _value(found: re.Match[str]) -> Fraction | None:
    sign = -1 if (found["sign"] == "-") != (found["sign2"] == "-") else 1
    if found["top"] or found["top1"] or found["top2"]:
        top = _fraction(found["top"] or found["top1"] or found["top2"])
        bottom = _fraction(found["bottom"] or found["bottom1"] or found["bottom2"])
        if bottom == 0:
            return None
        return sign * (_fraction(found["whole"] or "0") + top / bottom)
    if found["factor"]:
        return sign * _fraction(found["factor"]) * _ten(found["ten"] or found["ten1"])
    if found["power"] or found["power1"]:
        return sign * _ten(found["power"] or found["power1"])
    if found["whole"]:
        return None
    value = _fraction(found["plain"])
    return sign * value * (_ten(found["exponent"]) if found["exponent"] else 1)


def _ten(exponent: str) -> Fraction:
    if len(exponent) > _MOST_DIGITS or abs(int(exponent)) > _LARGEST_EXPONENT:
        raise RewardError("unjudgeable", f"a number with the exponent {exponent[:20]} is too large to be compared")
    return Fraction(10) ** int(exponent)


def _fraction(digits: str) -> Fraction:
    digits = digits.replace(" ", "")
    if len(digits) > _MOST_DIGITS:
        raise RewardError("unjudgeable", f"a number of {len(digits)} digits is too long to be compared")
    return Fraction(digits.rstrip(".") or "0")
