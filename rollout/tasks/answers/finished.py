"""The part of a response that is judged: what it says outside its reasoning, once that is finished."""

from __future__ import annotations

import re

_TAG = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)


def finished_text(text: str, thinking: bool = False) -> str | None:
    """Returns what a response says outside its reasoning; None where the reasoning is not finished.

    Reasoning stands between <think> and </think> (or <thinking> and </thinking>), anywhere and any number of times. Within it
    another opening tag is only text. What stands before a closing tag that nothing has opened is reasoning too: a chat
    template has opened it.

    Args:
        text: the response.
        thinking: whether the rendered prompt has opened the reasoning already.
    """
    said: list[str] = []
    begin, inside = 0, thinking
    for tag in _TAG.finditer(text):
        if tag[1]:
            if not inside:
                said.clear()
            inside, begin = False, tag.end()
        elif not inside:
            said.append(text[begin : tag.start()])
            inside = True
    if inside:
        return None
    return "".join((*said, text[begin:]))
