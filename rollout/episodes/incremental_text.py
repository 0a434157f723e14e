"""Turns generated tokens into text as they arrive, never half a character."""

from __future__ import annotations

from collections.abc import Sequence

from rollout.data.tokenizer import Tokenizer

_INCOMPLETE = "\ufffd"  # what decoders write for bytes that are no character yet


class IncrementalText:
    """The text of one answer, known as far as later tokens cannot change it.

    A few of the last tokens are decoded again with every new one, because many tokenizers write a token otherwise at the
    beginning of a text. An end token is held back until another token follows: at the end of an answer it is no text.

    Args:
        tokenizer: decodes.
        end_ids: ids that are no text at the end of an answer.

    Attributes:
        text: what is known.
    """

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
        self.text = ""
        self._tokenizer = tokenizer
        self._end_ids = frozenset(end_ids)
        self._ids: list[int] = []
        self._held: list[int] = []
        self._window = self._known = (
            0  # ids before ``_known`` are in ``text``; those from ``_window`` on are decoded again
        )

    def push(self, tokens: Sequence[int]) -> None:
        """Takes further tokens."""
        for token in tokens:
            self._ids += self._held
            self._held = [token] if token in self._end_ids else []
            if not self._held:
                self._ids.append(token)
        if not self._tokenizer.cleans_up_spaces:  # then a part's text is not a part of the text
            self._extend()

    def complete(self, tokens: Sequence[int]) -> str:
        """Returns the text of the whole answer, which begins with ``text``.

        Args:
            tokens: all tokens of the answer, those included that were pushed.
        """
        whole = self._tokenizer.text(tokens, tuple(self._end_ids))
        if not whole.startswith(self.text):
            # What a client has read cannot be taken back: the rest is decoded as the part was.
            self.push(tokens[len(self._ids) + len(self._held) :])
            whole = self.text + self._tail()
        self.text = whole
        return whole

    def _extend(self) -> None:
        before = self._tokenizer.part(self._ids[self._window : self._known])
        now = self._tokenizer.part(self._ids[self._window :])
        if len(now) <= len(before) or now.endswith(_INCOMPLETE) or not now.startswith(before):
            return
        self.text += now[len(before) :]
        self._window, self._known = self._known, len(self._ids)

    def _tail(self) -> str:
        before = self._tokenizer.part(self._ids[self._window : self._known])
        return self._tokenizer.part(self._ids[self._window :]).removeprefix(before)
