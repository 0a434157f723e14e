"""Units behind numbers: which texts may stand there, and which of them are known to differ."""

from __future__ import annotations

import re

_UNITS = {
    "km": "km kilometer kilometers kilometre kilometres kms",
    "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres cms",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "in": "inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "kg": "kg kilogram kilograms kgs",
    "g": "g gram grams",
    "mg": "mg milligram milligrams",
    "lb": "lb lbs pound-weight",
    "oz": "oz ounce ounces",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "gal": "gallon gallons",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "d": "day days",
    "wk": "week weeks",
    "mo": "month months",
    "yr": "yr yrs year years",
    "$": "$ usd us$ dollar dollars",
    "ct": "¢ cent cents",
    "€": "€ eur euro euros",
    "£": "£ gbp pound pounds",
    "deg": "^circ ^{circ} degree degrees deg",
    "rad": "radian radians rad",
}
_SHORTEST = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_ONE_LETTER = frozenset("mgslhLVWNJKCFA")
# They change what the number before them means: 5 less, 5 or more, 5 and a half, 5 squared.
_NOT_UNITS = frozenset(
    (
        *("or", "and", "plus", "minus", "times", "divided", "less", "more", "over", "not", "sqrt", "squared", "cubed"),
        *(
            "half",
            "factorial",
            "choose",
            "mod",
            "pi",
            "infinity",
            "unless",
            "remainder",
            "sin",
            "cos",
            "tan",
            "log",
            "ln",
            "exp",
        ),
        *("to", "i", "e", "x", "y", "z", "n", "k", "a", "b", "c"),
    )
)

# What may stand behind a number: words, with a power and a slash perhaps; no digits, no operators.
UNIT_TEXT = re.compile(
    r"(?:\s|~|\\[,;:! ]|\\(?:text|mathrm|textrm|mathit|mbox|textbf|mathbf|operatorname|rm|quad|circ|degree)(?![A-Za-z])"
    r"|\^\s*\{?\s*\\circ\s*\}?|(?<=[A-Za-z)}])\^\s*\{?\s*[23]\s*\}?|\^\s*\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\b"
    r"|[^\W\d_]|[€£¥¢$.'/()·-]|\\\$|[{}])*"
)
_WORD = re.compile(r"[A-Za-z]+")
_COMMAND = re.compile(
    r"\\(?:text|mathrm|textrm|mathit|mbox|textbf|mathbf|operatorname|rm|quad)(?![A-Za-z])|\\[,;:! ]|~"
)


def known_unit(text: str) -> str | None:
    """Returns the unit that a text behind a number is, in its shortest form; empty: none, or one that is not known.

    None where it is no unit: a variable, or a word that changes what the number means.
    """
    text = _COMMAND.sub(" ", text).replace("\\degree", "^\\circ")
    bare = re.sub(r"[\\{}\s().]", " ", text).strip()
    if not bare:
        return ""
    if (known := _SHORTEST.get(bare.replace(" ", "").lower())) is not None and not (len(bare) == 1 and bare.isupper()):
        return known
    words = _WORD.findall(bare.replace("circ", " "))
    if any(len(word) == 1 and word not in _ONE_LETTER and word != "s" for word in words[:1]):
        return None
    if any(word.lower() in _NOT_UNITS for word in words):
        return None
    return ""
