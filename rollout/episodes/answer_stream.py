"""Shows an answer as it comes: never a piece of a marker, and nothing that could turn out to be something else."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.episodes.calls import Delta, OnDelta
from rollout.episodes.reasoning import CLOSE, OPEN
from rollout.episodes.tool_call import ToolFormat, held_back


class AnswerStream:
    """Splits the text of one answer into reasoning and content while it arrives.

    What is shown is always the beginning of what the whole answer, once parsed, has; ``complete`` shows the rest.

    Args:
        on_delta: receives what is shown.
        format: how tool calls are written; None: there are none.
        reasoning: None: reasoning is not separated; otherwise whether the prompt has opened it.
        stop: texts that end the answer and are no part of it.
    """

    def __init__(
        self, on_delta: OnDelta, format: ToolFormat | None, reasoning: bool | None, stop: Sequence[str]
    ) -> None:
        self._on_delta = on_delta
        self._format = format
        self._stop = tuple(stop)
        self._opened = bool(reasoning)
        self._phase = "content" if reasoning is None else "start"
        self._raw = ""  # may be the beginning of a stop text
        self._rest = ""  # not shown
        self._shown = {"reasoning": "", "content": ""}
        self._breaks = ""  # line breaks at the end of the reasoning so far
        self._stopped = False

    def push(self, text: str) -> None:
        """Takes further text and shows what is certain."""
        if self._stopped or not text:
            return
        self._raw += text
        found = [at for at in (self._raw.find(stop) for stop in self._stop) if at >= 0]
        self._stopped = bool(found)
        end = min(found) if found else len(self._raw) - held_back(self._raw, self._stop)
        self._rest += self._raw[:end]
        self._raw = self._raw[end:]
        self._advance()

    def complete(self, reasoning: str, content: str) -> None:
        """Shows the rest of the parsed answer."""
        self._show("reasoning", reasoning[len(self._shown["reasoning"]) :])
        self._show("content", content[len(self._shown["content"]) :])

    def _advance(self) -> None:
        if self._phase == "start":
            stripped = self._rest.lstrip()
            if OPEN.startswith(stripped) and stripped != OPEN:  # nothing yet, or a part of the marker
                return
            if stripped.startswith(OPEN):
                self._rest, self._phase = stripped[len(OPEN) :], "reasoning"
            else:
                self._phase = "reasoning" if self._opened else "content"
        if self._phase == "reasoning":
            self._advance_reasoning()
        if self._phase == "gap":  # line breaks between reasoning and content
            self._rest = self._rest.lstrip("\n")
            self._phase = "content" if self._rest else "gap"
        if self._phase == "content" and self._rest:
            begins = not self._shown["content"]
            self._show_rest(self._format.plain(self._rest, begins) if self._format else len(self._rest))

    def _advance_reasoning(self) -> None:
        close = self._rest.find(CLOSE)
        end = close if close >= 0 else len(self._rest) - held_back(self._rest, (CLOSE,))
        text = self._breaks + self._rest[:end]
        text = text if self._shown["reasoning"] else text.lstrip("\n")
        self._breaks = text[len(text.rstrip("\n")) :]
        self._show("reasoning", text.rstrip("\n"))
        self._rest = self._rest[end:]
        if close >= 0:
            self._rest, self._phase = self._rest[len(CLOSE) :], "gap"

    def _show_rest(self, size: int) -> None:
        self._show("content", self._rest[:size])
        self._rest = self._rest[size:]

    def _show(self, what: str, text: str) -> None:
        if text:
            self._shown[what] += text
            self._on_delta(Delta(text=text) if what == "content" else Delta(reasoning=text))
