"""A model directory with a chat template and no weights, and an engine that answers from a script and keeps its calls."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from rollout.data.tokenizer import Tokenizer
from rollout.engine.response import Response, VersionSpan
from rollout.engine.sampling import Sampling

TEMPLATES = Path(__file__).parent / "chat_templates"
BOS, END, PADDING = "<|begin|>", "<|im_end|>", "<|endoftext|>"
SPECIAL = (
    PADDING,
    BOS,
    "<|im_start|>",
    END,
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
)
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_PIECES = ("he", "ll", "hell", "hello", "Ġw", "12", "na", "me", "name", "Ġ{", '":', 'Ġ"', "},", "ar", "gu", "ĊĊ")
_MERGES = (
    ("h", "e"),
    ("l", "l"),
    ("he", "ll"),
    ("hell", "o"),
    ("Ġ", "w"),
    ("1", "2"),
    ("n", "a"),
    ("m", "e"),
    ("na", "me"),
    ("Ġ", "{"),
    ('"', ":"),
    ("Ġ", '"'),
    ("}", ","),
    ("a", "r"),
    ("g", "u"),
    ("Ċ", "Ċ"),
)
# Which tokens end an answer, by template.
_ENDS = {"headers": ("<|eot_id|>", "<|eom_id|>")}


def write_chat_model(directory: Path, template: str, *, marks: bool = True) -> Path:
    """Writes the tokenizer and settings of a model with one of the templates of this directory.

    Args:
        directory: made if it is not there.
        template: its name, without .jinja.
        marks: whether <think> and the like are tokens of their own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    raw = _byte_level(marks)
    raw.save(str(directory / "tokenizer.json"))
    ends = [raw.token_to_id(end) for end in (*_ENDS.get(template, (END,)), PADDING)]
    config = {"model_type": "qwen3", "vocab_size": raw.get_vocab_size(), "eos_token_id": ends}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": _ENDS.get(template, (END,))[0],
        "pad_token": PADDING,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text((TEMPLATES / f"{template}.jinja").read_text())
    return directory


def _byte_level(marks: bool) -> RawTokenizer:
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *_PIECES]
    raw = RawTokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, list(_MERGES)))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}+| ?[^\s\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(False, True, False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    if marks:
        raw.add_tokens([AddedToken(token, normalized=False, special=False) for token in MARKS])
    return raw


class OddTokens:
    """Writes text as token ids in ways in which no tokenizer would: what is tokenised again comes out otherwise."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._rng = random.Random(seed)

    def ids(self, text: str) -> list[int]:
        """Returns token ids that decode to the text, cut into tokens at random places."""
        found: list[int] = []
        for token in self._tokenizer.rendered_ids(text):
            part = self._tokenizer.part([token])
            if len(part) > 1 and part not in (*SPECIAL, *MARKS) and self._rng.random() < 0.5:
                found += [one for letter in part for one in self._tokenizer.rendered_ids(letter)]
            else:
                found.append(token)
        return found


@dataclass
class EngineTurn:
    """What an engine was given and returned in one call."""

    prompt: list[int]
    sampling: Sampling
    affinity: str
    tokens: list[int]
    spans: list[VersionSpan]


@dataclass
class ScriptedEngine:
    """Answers calls with what ``answer`` returns for the n-th of them, in pieces, and keeps what it was given.

    Attributes:
        answer: returns token ids, and whether the answer is complete rather than cut off by its length.
        exchanges: the calls that were answered, in the order in which they were.
        calls: number of calls that were begun.
        gate: waits before each piece; the default lets other tasks run.
        version: of the next token.
    """

    answer: Callable[[int, Sequence[int]], tuple[list[int], bool]]
    exchanges: list[EngineTurn] = field(default_factory=list)
    calls: int = 0
    gate: Callable[[int], Any] = lambda call: asyncio.sleep(0)
    version: int = 3

    async def __call__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        affinity: str = "",
        on_tokens: Callable[[Sequence[int]], None] | None = None,
    ) -> Response:
        """Generates as ``EnginePool.generate_one`` does; the version changes in the middle of each answer."""
        call, self.calls = self.calls, self.calls + 1
        tokens, complete = self.answer(call, prompt)
        cut = len(tokens) > sampling.max_new_tokens
        tokens = tokens[: sampling.max_new_tokens]
        for start in range(0, max(len(tokens), 1), 3):
            await self.gate(call)
            if on_tokens is not None:
                on_tokens(tokens[start : start + 3])
        middle, first = len(tokens) // 2, self.version
        self.version += 1
        bounds = ((first, 0, middle), (self.version, middle, len(tokens)))
        spans = [VersionSpan(version, start, end) for version, start, end in bounds if end > start]
        self.exchanges.append(EngineTurn(list(prompt), sampling, affinity, tokens, spans))
        return Response(list(tokens), "stop" if complete and not cut else "length", spans)
