"""The final answer of a response: its last box, <answer> or "####", or what its last sentence about the answer says."""

from __future__ import annotations

import re

from rollout.tasks.answers.boxes import AnswerBox, find_boxes

_MARK = re.compile(r"####[ \t]*([^\n]*)")
_PHRASE = re.compile(
    r"(?:\banswer|\bresult|\bsolution)s?\b[*_`]*(?:[^.\n:=]{0,80}?\b(?:is|are|be|equals)\b|[ \t]*[:=])[ \t]*:?[*_`\s]*",
    re.IGNORECASE,
)
_SHORT_PHRASE = re.compile(r"^[ \t]*[*_`]*A[ \t]*[:=][ \t]*[*_`]*", re.MULTILINE)  # "A: 18", a line of its own
_SENTENCE_END = re.compile(r"[.!?](?=\s|$|[*_`\"'](?:\s|$))")
_REASON = re.compile(r",?\s+(?:because|since|as|so|which|where|assuming)\b", re.IGNORECASE)
_DISPLAY = re.compile(r"\\\[(.{0,2000}?)\\\]|\$\$(.{0,2000}?)\$\$", re.DOTALL)
_NOT_BEFORE = re.compile(r"\b(?:not|isn't|never)\s*(?:\$|\\\(|\\\[)*\s*$", re.IGNORECASE)
_NOTHING = re.compile(r"[\s$~.]|\\[()\[\],;:! ]|\\(?:quad|qquad)|\\text\s*\{|[{}]|[A-Za-z]\s*=")
_JOINED = re.compile(r"(?:,|;|&|/|and|or|,and|,or|\\\\)?", re.IGNORECASE)
_HEDGE = re.compile(r"\b(?:or|maybe|perhaps|possibly|alternatively|could|might|also|either)\b", re.IGNORECASE)
_CORRECTION = re.compile(
    r"\b(?:no|not|wait|wrong|incorrect|mistake|actually|correct|corrected|instead|rather|sorry|should|hence|so|therefore|"
    r"thus|then)\b",
    re.IGNORECASE,
)
_RETRACTION = re.compile(r"\b(?:wait|actually|correction|sorry|mistaken?|scratch that)\b", re.IGNORECASE)
_LONGEST_GAP = 120  # characters between two boxes of one statement


def final_answers(text: str) -> list[str] | None:
    """Returns the final answer of a finished text; several where it names several at once; None where it marks none.

    The last box counts. Boxes that one statement joins ("either ... or ...", "x = ... and y = ...") count together. An empty
    list is a box that is empty or does not end: what else the text says is then no answer.
    """
    boxes = find_boxes(text)
    if boxes:
        return _boxed(text, boxes)
    if (tagged := _tagged(text)) is not None:
        return [tagged] if tagged else []
    marks = _MARK.findall(text)
    if marks:
        return [marks[-1].strip()] if marks[-1].strip() else []
    phrase = None
    for pattern in (_PHRASE, _SHORT_PHRASE):
        for found in pattern.finditer(text):
            if phrase is None or found.end() > phrase:
                phrase = found.end()
    if phrase is None:
        return None
    said = _statement(text[phrase:])
    if not said:
        return None
    # "The answer is 17. Wait, it is 18." has taken back what it said, and marks nothing since.
    return None if _RETRACTION.search(text[phrase:].partition(said)[2]) else [said]


def _tagged(text: str) -> str | None:
    """What stands in the last <answer>...</answer>: empty where it does not end, None where there is none."""
    _, opened, rest = text.rpartition("<answer>")
    if not opened:
        return None
    content, closed, _ = rest.partition("</answer>")
    return content.strip() if closed else ""


def _boxed(text: str, boxes: list[AnswerBox]) -> list[str]:
    last = boxes[-1]
    if not last.content or _NOT_BEFORE.search(text[max(0, last.start - 40) : last.start]):
        return []
    answers = [last.content]
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        if not before.content or not _together(text[before.end : after.start]):
            break
        if before.content not in answers:
            answers.insert(0, before.content)
    return answers


def _together(gap: str) -> bool:
    """Whether two boxes with this text between them are one statement, and not a correction or two steps."""
    if len(gap) > _LONGEST_GAP:
        return False
    rest = _NOTHING.sub("", gap)
    if _JOINED.fullmatch(rest):
        return bool(rest) or "\n" not in gap
    if "\n" in gap or _SENTENCE_END.search(gap) or _CORRECTION.search(gap):
        return False
    return _HEDGE.search(gap) is not None


def _statement(rest: str) -> str:
    """The statement that a text begins with."""
    rest = rest.strip()
    display = _DISPLAY.match(rest)
    if display is not None:
        return (display[1] or display[2] or "").strip()
    line = rest.partition("\n")[0]
    if (end := _SENTENCE_END.search(line)) is not None:
        line = line[: end.start()]
    if (reason := _REASON.search(line)) is not None:
        line = line[: reason.start()]
    return line.strip(" *_`")
