"""Converts text to token ids and back, with the light `tokenizers` library on the model's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rollout.data.chat_message import canonical
from rollout.data.chat_template import ChatTemplate, read_chat_template
from rollout.data.tokenizer_files import TokenizerError, TokenizerFiles, read_json, read_tokenizer

__all__ = ["Tokenizer", "TokenizerError"]

_SPACED = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")  # what transformers writes without the space


class Tokenizer:
    """The tokenizer and the special token ids of one model directory.

    Args:
        model: Hugging Face directory with tokenizer.json and config.json.

    Attributes:
        vocab_size: number of ids, from config.json.
        eos_ids: ids of the end tokens that generation_config.json, config.json and tokenizer_config.json declare, in this
            order. SGLang ends a response at any of them.

    Raises:
        TokenizerError: a file is missing or unreadable, or no end token or vocabulary size is declared.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        files = read_tokenizer(model)
        self._special = files.special
        self._tokenizer = files.raw
        self._known = frozenset(files.raw.get_vocab(with_added_tokens=True).values())
        self._clean_up_spaces = files.clean_up_spaces
        config = read_json(model / "config.json")
        self.vocab_size = _vocab_size(model, config)
        self.eos_ids = _eos_ids(model, config, files, self.vocab_size)

    @property
    def largest_id(self) -> int:
        """The largest id that stands for text; larger ones are padding of the embedding."""
        return max(self._known)

    def prompt_ids(self, text: str) -> list[int]:
        """Returns the token ids of a prompt as it is, the special tokens with which the model's texts begin included."""
        return self._tokenizer.encode(text).ids

    def message_ids(
        self, messages: Sequence[Mapping[str, Any]], keywords: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Returns the token ids of a conversation, followed by the beginning of an answer, through the chat template.

        Args:
            messages: in the form of OpenAI's chat completions.
            keywords: further variables for the template, such as enable_thinking.

        Raises:
            ChatRequestError: the messages, or the template on them, are not as they must be.
            TokenizerError: the model has no chat template.
        """
        return self.rendered_ids(self.chat_template.render(canonical(messages), (), keywords))

    def rendered_ids(self, text: str, after: int | None = None) -> list[int]:
        """Returns the token ids of text that a chat template has made: it has its special tokens already.

        Args:
            text: what the template has made, or the end of it.
            after: the special token that precedes the text, if one does. Without it, some tokenizers put a space before the
                text, as before the beginning of a line.
        """
        if after is None or self._tokenizer.encode_special_tokens:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        name = self._tokenizer.id_to_token(after) or ""
        ids = self._tokenizer.encode(name + text, add_special_tokens=False).ids
        return ids[1:] if ids[:1] == [after] else self._tokenizer.encode(text, add_special_tokens=False).ids

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The model's chat template, read when it is first needed. Raises TokenizerError when there is none."""
        return read_chat_template(self._model, self._special)

    def response_ids(self, text: str) -> list[int]:
        """Returns the token ids of a whole response with its end token, as a demonstration needs them."""
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids, self.eos_ids[0]]

    def text(self, ids: Sequence[int], stop_ids: Sequence[int] = ()) -> str:
        """Returns a response as text, without its final end or stop token.

        Special tokens in the middle are written as their names: reward functions see them, and exact matches fail.
        """
        text = self._tokenizer.decode(list(self._without_end(ids, stop_ids)), skip_special_tokens=False)
        return _without_spaces(text) if self._clean_up_spaces else text

    def part(self, ids: Sequence[int]) -> str:
        """Returns token ids in the middle of a text as they are written, every special token by its name."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    @property
    def cleans_up_spaces(self) -> bool:
        """Whether spaces before punctuation are removed, so that the text of a part may differ from a part of the text."""
        return self._clean_up_spaces

    def unknown_id(self, ids: Sequence[int], stop_ids: Sequence[int] = ()) -> int | None:
        """Returns the first id of a response that stands for no text, its final end or stop token aside; None if all do.

        Many models have more rows in their embedding than their tokenizer has tokens. A policy can sample such an id, and
        it decodes to nothing: a wrong response could read as a right one.
        """
        return next((token for token in self._without_end(ids, stop_ids) if token not in self._known), None)

    def single_id(self, token: str) -> int:
        """Returns the id of a text that is one token. Raises TokenizerError when it is none or several."""
        ids = self._tokenizer.encode(token, add_special_tokens=False).ids
        if len(ids) != 1:
            raise TokenizerError(f"stop = {token!r}: is {len(ids)} tokens in {self._model}, a stop must be one")
        return ids[0]

    def _without_end(self, ids: Sequence[int], stop_ids: Sequence[int]) -> Sequence[int]:
        return ids[:-1] if ids and ids[-1] in (*self.eos_ids, *stop_ids) else ids


def _vocab_size(model: Path, config: dict[str, Any]) -> int:
    size = config.get("vocab_size")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise TokenizerError(f"model = {model}: config.json: vocab_size = {size!r}: expected the number of token ids")
    return size


def _eos_ids(model: Path, config: dict[str, Any], files: TokenizerFiles, vocab_size: int) -> tuple[int, ...]:
    """Returns the end tokens that any of the model's files declares, each once."""
    generation = read_json(model / "generation_config.json", optional=True)
    found = [
        *_ids(model / "generation_config.json", generation.get("eos_token_id"), vocab_size),
        *_ids(model / "config.json", config.get("eos_token_id"), vocab_size),
    ]
    own = None if files.eos_token is None else files.raw.token_to_id(files.eos_token)
    if own is not None and own < vocab_size:  # an end token that was only added to the text side can never be sampled
        found.append(own)
    if not found:
        raise TokenizerError(
            f"model = {model}: no end token: eos_token_id is neither in generation_config.json nor in config.json, and "
            f"eos_token, in tokenizer_config.json or special_tokens_map.json, is {files.eos_token!r}; add it to one of them"
        )
    return tuple(dict.fromkeys(found))


def _ids(path: Path, value: Any, vocab_size: int) -> list[int]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise TokenizerError(
                f"{path}: eos_token_id = {value!r}: expected an id in [0, {vocab_size}), a list of them, or null"
            )
    return ids


def _without_spaces(text: str) -> str:
    for spaced in _SPACED[:4]:
        text = text.replace(spaced, spaced[1:])
    text = text.replace(" ' ", "'")
    for spaced in _SPACED[4:]:
        text = text.replace(spaced, spaced[1:])
    return text
