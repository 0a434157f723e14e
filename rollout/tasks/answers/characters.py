"""Characters that look alike, written one way: digits, minus signs, spaces and mathematical signs of Unicode."""

from __future__ import annotations

import re
import unicodedata

_ALIKE = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2212, 0xFE63), "-"),
    **dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), " "),
    **dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD), ""),
    **dict.fromkeys((0x2018, 0x2019, 0x02BC), "'"),
    **dict.fromkeys((0x2044, 0x2215), "/"),
    **{ord(sign): text for sign, text in zip("‚，、；：", ",,,;:", strict=True)},
}
_SIGNS = {
    "×": r" \times ",
    "⋅": r" \cdot ",
    "·": r" \cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "°": r"^\circ ",
}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_RAISED_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+")
_ROOT = re.compile(r"√\s*(?:\(([^()]{1,40})\)|(\d+(?:\.\d+)?|[a-z]))")
_FRACTION = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")


def plain_characters(text: str) -> str:
    """Returns a text of the same meaning with ASCII digits, minus signs, spaces, quotes and full-width letters."""
    text = text.translate(_ALIKE)
    if text.isascii():
        return text
    text = _FRACTION.sub(_spelled_fraction, text)
    return "".join(str(unicodedata.decimal(one)) if not one.isascii() and one.isdecimal() else one for one in text)


def latex_characters(text: str) -> str:
    """Returns a formula with the mathematical signs of Unicode written as LaTeX."""
    text = plain_characters(text)
    if text.isascii():
        return text
    text = _RAISED_RUN.sub(lambda run: f"^{{{run[0].translate(_RAISED)}}}", text)
    text = _ROOT.sub(lambda root: f"\\sqrt{{{root[1] or root[2]}}}", text)
    return _SIGN.sub(lambda sign: _SIGNS[sign[0]], text)


def _spelled_fraction(match: re.Match[str]) -> str:
    spelled = unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/")
    return f" {spelled}"
