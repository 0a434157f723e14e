"""The token ids that a model's tokenizer knows, read from its files without a tokenizer library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def largest_token(directory: Path) -> int | None:
    """Returns the largest id that the tokenizer's files or an end token name; None if tokenizer.json cannot be read.

    Many models have rows in their embedding above it, as padding: a policy can sample such an id, and it means nothing.
    """
    try:
        ids = [*_vocabulary(_read(directory / "tokenizer.json")), *_declared(directory)]
        return max(ids, default=None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _vocabulary(tokenizer: Any) -> Iterator[int]:
    vocabulary = tokenizer["model"]["vocab"]  # a mapping to ids, or (Unigram) a list of pieces
    yield from vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    yield from (entry["id"] for entry in tokenizer.get("added_tokens", []))


def _declared(directory: Path) -> Iterator[int]:
    """Yields the ids that other files than tokenizer.json declare."""
    yield from map(int, _read(directory / "tokenizer_config.json", {}).get("added_tokens_decoder", {}))
    yield from _read(directory / "added_tokens.json", {}).values()
    for name in ("config.json", "generation_config.json"):
        ends = _read(directory / name, {}).get("eos_token_id")
        yield from [] if ends is None else ends if isinstance(ends, list) else [ends]


def _read(path: Path, default: Any = None) -> Any:
    return default if default is not None and not path.is_file() else json.loads(path.read_text())
