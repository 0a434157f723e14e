"""Converts text to token ids and back.

Uses the light `tokenizers` library on the model's tokenizer.json; transformers is imported only to render a chat template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer as RawTokenizer

from runtime.errors import MISCONFIGURED, LeewayError


class TokenizerError(LeewayError):
    """A model directory whose tokenizer cannot be used. The message names the file or the token."""

    exit_status = MISCONFIGURED


class Tokenizer:
    """The tokenizer and the special token ids of one model directory.

    Args:
        model: Hugging Face directory with tokenizer.json and config.json.
        prompt_format: "raw" (the text as it is) or "chat" (one user turn through the model's chat template).

    Attributes:
        vocab_size: number of ids, from config.json.
        eos_ids: ids of the end tokens, from generation_config.json or config.json.

    Raises:
        TokenizerError: a file is missing or unreadable, or no end token is declared.
    """

    def __init__(self, model: Path, prompt_format: Literal["raw", "chat"] = "raw") -> None:
        self._model = model
        self._format = prompt_format
        self._chat: Any = None
        path = model / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"model = {model}: no tokenizer.json there")
        self._tokenizer = RawTokenizer.from_file(str(path))
        config = _read_json(model / "config.json")
        generation = (
            _read_json(model / "generation_config.json") if (model / "generation_config.json").is_file() else {}
        )
        self.vocab_size: int = config["vocab_size"]
        self.eos_ids = _as_tuple(generation.get("eos_token_id", config.get("eos_token_id")))
        if not self.eos_ids:
            raise TokenizerError(f"model = {model}: eos_token_id is in neither generation_config.json nor config.json")

    def prompt_ids(self, text: str) -> list[int]:
        """Returns the token ids of a prompt, the special tokens of the model's format included."""
        if self._format == "raw":
            return self._tokenizer.encode(text).ids
        return self._tokenizer.encode(self._render(text), add_special_tokens=False).ids

    def response_ids(self, text: str) -> list[int]:
        """Returns the token ids of a whole response with its end token, as a demonstration needs them."""
        return [*self._tokenizer.encode(text, add_special_tokens=False).ids, self.eos_ids[0]]

    def text(self, ids: Sequence[int], stop_ids: Sequence[int] = ()) -> str:
        """Returns a response as text, without its final end or stop token.

        Special tokens in the middle are written as their names: reward functions see them, and exact matches fail.
        """
        if ids and ids[-1] in (*self.eos_ids, *stop_ids):
            ids = ids[:-1]
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def single_id(self, token: str) -> int:
        """Returns the id of a text that is one token. Raises TokenizerError when it is none or several."""
        ids = self._tokenizer.encode(token, add_special_tokens=False).ids
        if len(ids) != 1:
            raise TokenizerError(f"stop = {token!r}: is {len(ids)} tokens in {self._model}, a stop must be one")
        return ids[0]

    def _render(self, text: str) -> str:
        if self._chat is None:
            from transformers import AutoTokenizer  # seconds to import: only where chat is asked for

            self._chat = AutoTokenizer.from_pretrained(str(self._model))
            if not self._chat.chat_template:
                raise TokenizerError(
                    f"task.prompt_format = 'chat': {self._model} has no chat template; use 'raw' or add one"
                )
        turns = [{"role": "user", "content": text}]
        return self._chat.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON: {error}") from error


def _as_tuple(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)
