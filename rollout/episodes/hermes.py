"""Tool calls as Hermes and Qwen models write them: JSON between <tool_call> and </tool_call>."""

from __future__ import annotations

from rollout.episodes.observer import ParseFailure
from rollout.episodes.tool_call import ParsedContent, ToolCall, held_back, read_call, read_json_at

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class HermesFormat:
    """Any number of <tool_call>{"name": ..., "arguments": {...}}</tool_call>, text before them; the last may be unclosed."""

    def plain(self, text: str, begins: bool) -> int:
        """Returns how many characters are content for certain: those before a marker, without line breaks before it."""
        marker = text.find(_OPEN)
        end = marker if marker >= 0 else len(text) - held_back(text, (_OPEN,))
        return len(text[:end].rstrip("\n"))

    def parse(self, text: str) -> ParsedContent:
        """Takes every well-formed call out of the text."""
        calls: list[ToolCall] = []
        failures: list[ParseFailure] = []
        kept, done, marker = "", 0, text.find(_OPEN)
        while marker >= 0:
            found = _call_at(text, marker)
            if found is None:
                failures.append("malformed_call")
                marker = text.find(_OPEN, marker + len(_OPEN))
                continue
            call, end = found
            calls.append(call)
            kept, done = (kept + text[done:marker]).rstrip("\n"), end
            marker = text.find(_OPEN, end)
        rest = text[done:]
        return ParsedContent(kept + ("" if calls and not rest.strip() else rest), calls, failures)


def _call_at(text: str, marker: int) -> tuple[ToolCall, int] | None:
    """Returns the call whose opening marker is at ``marker``, and where it ends; None if it is malformed."""
    found = read_json_at(text, marker + len(_OPEN))
    if found is None or (call := read_call(found[0])) is None:
        return None
    rest = text[found[1] :]
    stripped = rest.lstrip()
    if stripped.startswith(_CLOSE):
        return call, len(text) - len(stripped) + len(_CLOSE)
    return None if stripped else (call, len(text))  # many models end at the closing brace
