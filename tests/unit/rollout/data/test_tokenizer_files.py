"""Ids and text are those of transformers, for tokenizers of every kind and for every file that declares tokens."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer

from rollout.data.demo_model import write_model
from rollout.data.tokenizer import Tokenizer, TokenizerError

WORDS = ("hello", "world", "12", "3", "+", "=", ".", "?", "do", "n't", "[", "]", "x")
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
VOCABULARY = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
ADDED = ("<tool>", "<think>", "new word", "<end>")


def word_level() -> RawTokenizer:
    raw = RawTokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return raw


def byte_level() -> RawTokenizer:
    letters = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "hell", "hello", "12", "Ġw"]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("1", "2"), ("Ġ", "w")]
    raw = RawTokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, merges))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|[^\s\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(False, True, False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    return raw


def unigram() -> RawTokenizer:
    pieces = [*SPECIAL, *WORDS, "▁hello", "▁wor", "ld", "▁", *"abcdefgh0123456789"]
    raw = RawTokenizer(models.Unigram([(piece, -1.0 - 0.1 * at) for at, piece in enumerate(pieces)], unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    return raw


def word_piece() -> RawTokenizer:
    pieces = [
        *SPECIAL,
        *WORDS,
        "##lo",
        "##rld",
        "hel",
        "wo",
        *"abcdehlorw",
        *(f"##{letter}" for letter in "abcdehlorw"),
    ]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    raw = RawTokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(cleanup=False)
    return raw


KINDS: tuple[Callable[[], RawTokenizer], ...] = (word_level, byte_level, unigram, word_piece)
NORMALISERS = (None, normalizers.NFC(), normalizers.Lowercase(), normalizers.Sequence([normalizers.NFKC()]))
PROCESSORS = (
    None,
    processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]),
    processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]),
    processors.ByteLevel(trim_offsets=False),
)
TOKENS = st.fixed_dictionaries(
    {
        "content": st.sampled_from(ADDED),
        "lstrip": st.booleans(),
        "rstrip": st.booleans(),
        "normalized": st.booleans(),
        "single_word": st.booleans(),
        "special": st.booleans(),
    }
)
NAMED = st.sampled_from([*SPECIAL, *ADDED])


def added_token(token: dict[str, Any]) -> AddedToken:
    return AddedToken(**token)


@st.composite
def tokenizers(draw: st.DrawFn) -> RawTokenizer:
    """A tokenizer as it is written into tokenizer.json, with stored truncation and padding among the rest."""
    raw = draw(st.sampled_from(KINDS))()
    if (normaliser := draw(st.sampled_from(NORMALISERS))) is not None:
        raw.normalizer = normaliser
    if (processor := draw(st.sampled_from(PROCESSORS))) is not None:
        raw.post_processor = processor
    if draw(st.booleans()):
        raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    raw.add_tokens([added_token(token) for token in draw(st.lists(TOKENS, max_size=2))])
    if draw(st.booleans()):
        raw.enable_truncation(draw(st.integers(2, 6)))
    if draw(st.booleans()):
        raw.enable_padding(
            pad_id=3, pad_token=draw(st.sampled_from(["<pad>", "<fill>"])), length=draw(st.integers(4, 9))
        )
    return raw


SETTINGS = st.fixed_dictionaries(
    {"tokenizer_class": st.just("PreTrainedTokenizerFast")},
    optional={
        "bos_token": NAMED,
        "eos_token": st.one_of(st.none(), NAMED, TOKENS.map(lambda token: {"__type": "AddedToken", **token})),
        "pad_token": st.one_of(st.none(), NAMED),
        "unk_token": st.just("<unk>"),
        "image_token": NAMED,
        "additional_special_tokens": st.lists(NAMED, max_size=3, unique=True),
        "extra_special_tokens": st.one_of(
            st.lists(NAMED, max_size=3, unique=True), st.fixed_dictionaries({"audio_token": NAMED})
        ),
        "add_bos_token": st.booleans(),
        "add_eos_token": st.booleans(),
        "add_prefix_space": st.booleans(),
        "split_special_tokens": st.booleans(),
        "clean_up_tokenization_spaces": st.booleans(),
        "model_max_length": st.integers(1, 8),
        "added_tokens_decoder": st.dictionaries(st.integers(0, 400).map(str), TOKENS, max_size=3),
    },
)
MAPS = st.fixed_dictionaries(
    {},
    optional={
        "bos_token": NAMED,
        "eos_token": st.one_of(NAMED, TOKENS),
        "pad_token": NAMED,
        "additional_special_tokens": st.lists(NAMED, max_size=2, unique=True),
    },
)
PIECES = st.sampled_from(
    [*WORDS, *SPECIAL, *ADDED, "hello", " ", "  ", "\n", "Hello", "é", "e\u0301", "ﬁ", "world", "?"]
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("tokenizers")
    write_model(base / "demo", 0)
    return base


def write(directory: Path, raw: RawTokenizer, **files: Any) -> Path:
    """Writes a model directory with a tokenizer and nothing else that concerns it but the given JSON files."""
    model = directory / "model"
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir()
    raw.save(str(model / "tokenizer.json"))
    config = {"model_type": "qwen3", "vocab_size": 1 << 16, "eos_token_id": 2}
    for name, content in {"config": config, **files}.items():
        if content is not None:
            (model / f"{name}.json").write_text(json.dumps(content))
    return model


def theirs(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(model))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    raw=tokenizers(),
    config=SETTINGS,
    special=st.none() | MAPS,
    added=st.none() | st.dictionaries(st.sampled_from(ADDED), st.integers(0, 60), max_size=2),
    texts=st.lists(st.lists(PIECES, max_size=8).map("".join), min_size=1, max_size=4),
)
def test_ids_and_text_are_those_of_transformers(
    directory: Path, raw: RawTokenizer, config: dict, special: dict | None, added: dict | None, texts: list[str]
):
    model = write(directory, raw, tokenizer_config=config, special_tokens_map=special, added_tokens=added)
    reference, ours = theirs(model), Tokenizer(model)
    for text in texts:
        ids = reference(text).input_ids
        assert ours.prompt_ids(text) == ids
        whole = [*ids, VOCABULARY["x"]]  # not an end token, which we would leave out
        assert ours.text(whole) == reference.decode(whole)
        assert ours.response_ids(text)[:-1] == reference(text, add_special_tokens=False).input_ids
    assert reference.eos_token_id is None or reference.eos_token_id in ours.eos_ids


def test_a_token_whose_id_is_taken_keeps_its_flags(directory: Path):
    """added_tokens.json gives the end token an id that tokenizer.json gives to another: its own flags still hold."""
    end = {"content": "new word", "lstrip": False, "rstrip": False, "normalized": False, "single_word": True}
    special = {"eos_token": {**end, "special": False}}
    raw = word_level()
    raw.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    named = {"tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"}, "special_tokens_map": special}
    model = write(directory, raw, **named, added_tokens={"new word": 0})
    assert Tokenizer(model).prompt_ids("hellonew word") == theirs(model)("hellonew word").input_ids


@given(text=st.text("0123456789+=", max_size=20))
def test_a_call_that_cut_and_padded_leaves_no_trace_in_the_prompts(directory: Path, text: str):
    cut = directory / "cut"
    if not cut.exists():
        shutil.copytree(directory / "demo", cut)
        reference = theirs(cut)
        reference(["123456="], truncation=True, max_length=4, padding="max_length")
        reference.save_pretrained(str(cut))
        stored = json.loads((cut / "tokenizer.json").read_text())
        assert stored["truncation"]
        assert stored["padding"]
    assert Tokenizer(cut).prompt_ids(text) == Tokenizer(directory / "demo").prompt_ids(text)


def test_a_byte_level_model_of_the_qwen_class_is_read_as_transformers_reads_it(directory: Path):
    raw = byte_level()
    raw.normalizer = normalizers.NFC()
    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    pattern = words + r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, True, False)]
    )
    raw.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, special=True)])
    raw.enable_truncation(3)
    named = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    model = write(directory, raw, tokenizer_config=named)
    for text in ("hello world 123", "e\u0301 <|endoftext|>\n\n  12", ""):
        assert Tokenizer(model).prompt_ids(text) == theirs(model)(text).input_ids


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": {"eos_token": 7}}, "a token in tokenizer_config.json"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, "a token in tokenizer_config.json"),
        ({"tokenizer_config": [1]}, r"tokenizer_config\.json: expected a JSON object, found list"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(directory: Path, files: dict, message: str):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer(write(directory, word_level(), **files))


def test_a_damaged_tokenizer_file_is_named(directory: Path):
    model = write(directory, word_level())
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        Tokenizer(model)
