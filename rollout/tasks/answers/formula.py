"""A formula without what does not change its meaning, and the parts of lists, tuples, sets and intervals."""

from __future__ import annotations

import re

from rollout.tasks.answers.boxes import closing_brace
from rollout.tasks.answers.characters import latex_characters

_EMPTY = re.compile(
    r"\\(?:left|right)(?![A-Za-z])\.?|\\(?:[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|mathopen|mathclose|large|Large|"
    r"LARGE|huge|Huge|small|bf|it|rm|sf|color\s*\{[^{}]{0,40}\}|textcolor\s*\{[^{}]{0,40}\}|colorbox\s*\{[^{}]{0,40}\})"
    r"(?![A-Za-z])|\\phantom\s*\{[^{}]*\}"
)
_MATH_QUOTES = re.compile(r"\\[()\[\]]")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|mbox|emph|bold|underline)\s*\{"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_APPROXIMATELY = re.compile(r"^\s*(?:\\(?:approx|sim|simeq|cong)(?![A-Za-z])|~|≈)\s*")
_SPACES = re.compile(r"\\[,;:! ]|\\(?:quad|qquad|thinspace|enspace|hspace\s*\{[^{}]*\})(?![A-Za-z])|~|\s+")
_AND = re.compile(r"(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))", re.IGNORECASE)
_OPENING, _CLOSING = "([", ")]"
_PAIRS = {"(": ")", "[": "]", r"\{": r"\}", r"\langle": r"\rangle", r"\lbrace": r"\rbrace"}


def bare_formula(text: str) -> str:
    """Returns a formula without math quotes, emphasis, \\left and \\right, outer braces and punctuation at its end."""
    text = latex_characters(text).replace(r"\varnothing", r"\emptyset")
    text = _MATH_QUOTES.sub(" ", text) if "\\begin" not in text else text
    text = _FRACTION.sub(r"\\frac", _EMPTY.sub("", text))
    while True:
        before = text
        text = text.strip().strip('*`"').strip()
        text = text.removeprefix(":").removeprefix("\\#").removeprefix("#").removesuffix("\\\\").strip()
        text = text.rstrip(".,;:").strip() if not text.endswith(("\\,", "\\;", "\\:")) else text[:-2]
        if len(text) >= 2 and text[0] == text[-1] == "$":
            text = text.strip("$")
        text = _APPROXIMATELY.sub("", text)
        text = _unwrapped(text)
        if text == before:
            return text


def compact(text: str) -> str:
    """Returns a bare formula without spaces and text commands, for comparison letter by letter."""
    text = _WRAPPER.sub("{", _SPACES.sub("", bare_formula(text)))
    return text.replace("{", "").replace("}", "").replace("$", "") if "\\begin" not in text else text


def container_of(text: str) -> tuple[str, str]:
    r"""Returns what encloses a whole formula, such as "()", "[)" or "\{\}" ("" for nothing), and what is inside."""
    for opening, closing in _PAIRS.items():
        if not text.startswith(opening):
            continue
        for end in dict.fromkeys((closing, *(_CLOSING if opening in _OPENING else ()))):
            if text.endswith(end) and len(text) > len(opening) + len(end):
                inside = text[len(opening) : -len(end)]
                if _balanced(inside):
                    kind = r"\{\}" if "brace" in opening or "{" in opening else opening + end
                    return ("()" if "langle" in kind else kind), inside
    return "", text


def elements_of(text: str) -> list[str]:
    """Returns the elements of a list: what stands between commas, semicolons, "and" and "or" outside all brackets."""
    text = _AND.sub(",", text)
    elements, depth, begin, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if character == "\\" and text[position + 1 : position + 2] in ("{", "}"):
            depth += 1 if text[position + 1] == "{" else -1
            position += 1
        elif character == "\\":
            position += 1
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in ",;" and depth == 0:
            elements.append(text[begin:position])
            begin = position + 1
        position += 1
    elements.append(text[begin:])
    return [element.strip() for element in elements if element.strip()]


def nesting(text: str) -> int:
    """Returns how deep brackets and braces are nested."""
    deepest = depth = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _unwrapped(text: str) -> str:
    wrapper = _WRAPPER.match(text)
    opening = wrapper.end() - 1 if wrapper is not None else 0 if text.startswith("{") else None
    if opening is None or closing_brace(text, opening) != len(text) - 1:
        return text
    return text[opening + 1 : -1]


def _balanced(text: str) -> bool:
    depth = 0
    for character in re.sub(r"\\[{}]", "", text):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0
