"""Tool calls as Llama 3 models write them: the whole answer is JSON, or follows <|python_tag|>."""

from __future__ import annotations

from rollout.episodes.tool_call import ParsedContent, ToolCall, held_back, read_call, read_json_at

_TAG = "<|python_tag|>"


class Llama3Format:
    """One or more {"name": ..., "parameters": {...}} with semicolons or spaces between them, to the end of the answer."""

    def plain(self, text: str, begins: bool) -> int:
        """Returns how many characters are content for certain: none of an answer that begins as JSON does."""
        if begins and text.lstrip()[:1] in ("", "{"):
            return 0
        tag = text.find(_TAG)
        end = tag if tag >= 0 else len(text) - held_back(text, (_TAG,))
        return len(text[:end].rstrip("\n"))

    def parse(self, text: str) -> ParsedContent:
        """Reads all of the answer after the tag, or all of it, as calls; if any part is none, everything stays text."""
        before, tag, body = text.rpartition(_TAG) if text.count(_TAG) == 1 else ("", "", text)
        if not tag and (not text.lstrip().startswith("{") or _TAG in text):
            return ParsedContent(text, (), ("malformed_call",) if _TAG in text else ())
        calls, attempted = _calls(body)
        if calls:
            return ParsedContent(before.rstrip("\n"), calls)
        return ParsedContent(text, (), ("malformed_call",) if tag or attempted else ())


def _calls(body: str) -> tuple[list[ToolCall], bool]:
    """Returns the calls, none if something else is among them, and whether the text was meant as a call."""
    calls: list[ToolCall] = []
    at, attempted = 0, '"name"' in body and ('"parameters"' in body or '"arguments"' in body)
    while body[at:].strip(" ;\n\t\r"):
        at = len(body) - len(body[at:].lstrip(" ;\n\t\r"))
        found = read_json_at(body, at)
        call = None if found is None else read_call(found[0])
        if found is None or call is None:
            return [], attempted
        calls.append(call)
        at = found[1]
    return calls, attempted
