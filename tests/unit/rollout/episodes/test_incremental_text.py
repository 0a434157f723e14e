"""Text that is known while tokens arrive is the beginning of the text of all of them, for tokenizers of several kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from rollout.data.tokenizer import Tokenizer
from rollout.episodes.incremental_text import IncrementalText

_PIECES = ["<unk>", "</s>", "▁hello", "▁", "wor", "ld", ".", "▁n't", "a", *(f"<0x{byte:02X}>" for byte in range(256))]


def sentence_pieces() -> RawTokenizer:
    """A tokenizer in the way of Llama 2: words begin with a mark, bytes stand for what is no piece."""
    raw = RawTokenizer(models.Unigram([(piece, -1.0) for piece in _PIECES], unk_id=0, byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(steps)
    raw.add_special_tokens(["</s>"])
    return raw


def word_pieces() -> RawTokenizer:
    pieces = ["<unk>", "</s>", "hello", "##lo", "world", ".", "n't", "##a", "?"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    raw = RawTokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    raw.decoder = decoders.WordPiece(cleanup=False)
    raw.add_special_tokens(["</s>"])
    return raw


def model(directory: Path, raw: RawTokenizer, **tokenizer_config: object) -> Tokenizer:
    raw.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"vocab_size": raw.get_vocab_size(), "eos_token_id": 1}))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def kinds(tokenizers, tmp_path_factory) -> dict[str, Tokenizer]:
    return {
        "bytes": tokenizers["chatml"],
        "sentence pieces": model(tmp_path_factory.mktemp("sp"), sentence_pieces()),
        "word pieces": model(tmp_path_factory.mktemp("wp"), word_pieces()),
        "cleaned": model(tmp_path_factory.mktemp("clean"), word_pieces(), clean_up_tokenization_spaces=True),
    }


@pytest.mark.parametrize("kind", ["bytes", "sentence pieces", "word pieces", "cleaned"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_is_known_is_never_taken_back(kinds, kind: str, data: st.DataObject):
    tokenizer = kinds[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=24))
    text, known = IncrementalText(tokenizer, tokenizer.eos_ids), ""
    while ids[: (size := data.draw(st.integers(1, 4)))] and len(known) < 1000:
        text.push(ids[:size])
        assert text.text.startswith(known)
        known, ids = text.text, ids[size:]
        if not ids:
            break


@pytest.mark.parametrize("kind", ["bytes", "sentence pieces", "word pieces", "cleaned"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_whole_is_what_the_tokenizer_writes(kinds, kind: str, data: st.DataObject):
    tokenizer = kinds[kind]
    if kind == "sentence pieces":  # a byte that is no text voids those before it, which no model writes
        ids = tokenizer.rendered_ids(data.draw(st.text(max_size=12)))
    else:
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=24))
    text = IncrementalText(tokenizer, tokenizer.eos_ids)
    for at in range(len(ids)):
        text.push(ids[at : at + 1])
        assert tokenizer.text(ids).startswith(text.text)
    assert text.complete(ids) == tokenizer.text(ids)


def test_half_a_character_is_not_shown(tokenizers):
    tokenizer = tokenizers["chatml"]
    (first, second), (end,) = tokenizer.rendered_ids("é"), tokenizer.rendered_ids("a")
    text = IncrementalText(tokenizer, tokenizer.eos_ids)
    text.push([first])
    assert text.text == ""
    text.push([second])
    assert text.text == "é"
    text.push([first])
    text.push([end])
    assert text.text == "é\ufffda"  # it never was a character


def test_a_text_that_a_tokenizer_writes_otherwise_at_last_goes_on_as_it_was_shown(tokenizers, monkeypatch):
    tokenizer = tokenizers["chatml"]
    text = IncrementalText(tokenizer, tokenizer.eos_ids)
    ids = tokenizer.rendered_ids("abc")
    text.push(ids[:2])
    monkeypatch.setattr(tokenizer, "text", lambda *_: "other")
    assert text.complete(ids) == "abc"
