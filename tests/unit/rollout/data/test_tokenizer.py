"""The tokenizer of a model directory, on the demo's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers

from rollout.data.demo_model import BOS, EOS, TOKENS, write_model
from rollout.data.tokenizer import Tokenizer, TokenizerError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    assert write_model(directory, seed=0) == 594_688
    return directory


@given(text=st.text("0123456789+=", max_size=20))
def test_the_digit_tokenizer_is_one_token_a_character(model: Path, text: str):
    tokenizer = Tokenizer(model)
    assert tokenizer.prompt_ids(text) == [BOS, *(TOKENS.index(character) for character in text)]
    ids = tokenizer.response_ids(text)
    assert ids == [*(TOKENS.index(character) for character in text), EOS]
    assert tokenizer.text(ids) == text


def test_only_the_last_end_token_is_left_out_of_the_text(model: Path):
    tokenizer = Tokenizer(model)
    assert tokenizer.vocab_size == 16
    assert tokenizer.eos_ids == (12,)
    assert tokenizer.text([1, 2]) == "12"
    assert tokenizer.text([1, 12, 2, 12]) == "1<eos>2"
    assert tokenizer.text([1, 11], stop_ids=(11,)) == "1"
    assert tokenizer.text([14, 13]) == "<bos><pad>"
    assert tokenizer.single_id("=") == 11
    with pytest.raises(TokenizerError, match="stop = '12': is 2 tokens"):
        tokenizer.single_id("12")


def with_end_tokens(directory: Path, config: Any, generation: Any, own: Any) -> Path:
    """Writes the demo's model with end tokens declared in three places; a value of "absent" leaves the key or file out."""
    write_model(directory, seed=0)
    for name, key, value in (
        ("config", "eos_token_id", config),
        ("generation_config", "eos_token_id", generation),
        ("tokenizer_config", "eos_token", own),
    ):
        path = directory / f"{name}.json"
        content = {other: old for other, old in json.loads(path.read_text()).items() if other != key}
        path.write_text(json.dumps(content if value == "absent" else {**content, key: value}))
    return directory


@pytest.mark.parametrize(
    ("config", "generation", "own", "expected"),
    [
        (12, 13, "<eos>", (13, 12)),
        ([12, 13], 15, "<bos>", (15, 12, 13, 14)),
        (None, [13, 12], None, (13, 12)),
        (12, None, "absent", (12,)),
        (None, None, "<pad>", (13,)),
        ("absent", "absent", "<pad>", (13,)),
        (12, [], "<eos>", (12,)),
        (12, "absent", "<added>", (12,)),  # id 16, which the model cannot sample
    ],
)
def test_the_end_tokens_are_those_of_all_files(tmp_path: Path, config, generation, own, expected: tuple[int, ...]):
    tokenizer = Tokenizer(with_end_tokens(tmp_path, config, generation, own))
    assert tokenizer.eos_ids == expected
    for token in expected:
        assert tokenizer.text([1, 2, token]) == "12"


@pytest.mark.parametrize(
    ("config", "generation", "own", "message"),
    [
        (
            None,
            None,
            None,
            "neither in generation_config.json nor in config.json, and eos_token, in tokenizer_config.json",
        ),
        ("absent", "absent", "absent", "no end token"),
        ("2", 12, "<eos>", r"/config\.json: eos_token_id = '2': expected an id in \[0, 16\)"),
        (12, [12, 99], "<eos>", r"/generation_config\.json: eos_token_id = \[12, 99\]"),
    ],
)
def test_end_tokens_that_cannot_be_used_are_named(tmp_path: Path, config, generation, own, message: str):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer(with_end_tokens(tmp_path, config, generation, own))


@pytest.mark.parametrize("size", [None, "16", 0, True])
def test_a_vocabulary_size_that_cannot_be_used_is_named(tmp_path: Path, size: Any):
    write_model(tmp_path, seed=0)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": size}))
    with pytest.raises(TokenizerError, match=r"config\.json: vocab_size = "):
        Tokenizer(tmp_path)


def test_the_same_seed_gives_the_same_model_and_another_another(model: Path, tmp_path: Path):
    write_model(tmp_path / "a", seed=0)
    write_model(tmp_path / "b", seed=1)
    for path in model.iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "b/model.safetensors").read_bytes() != (model / "model.safetensors").read_bytes()
    assert (tmp_path / "b/config.json").read_bytes() == (model / "config.json").read_bytes()


def test_transformers_reads_the_model_as_we_do(model: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    assert tokenizer("314159=")["input_ids"] == Tokenizer(model).prompt_ids("314159=")
    found: Any = AutoModelForCausalLM.from_pretrained(str(model), output_loading_info=True)
    loaded, info = found
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 594_688


def test_chat_without_a_template_and_a_missing_tokenizer_are_named(model: Path, tmp_path: Path):
    with pytest.raises(TokenizerError, match="has no chat template"):
        Tokenizer(model).message_ids([{"role": "user", "content": "1"}])
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        Tokenizer(tmp_path)


def test_chat_goes_through_the_template(tmp_path: Path):
    write_model(tmp_path, seed=0)
    (tmp_path / "chat_template.jinja").write_text(
        "{% for m in messages %}<bos>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    assert Tokenizer(tmp_path).message_ids([{"role": "user", "content": "12"}]) == [14, 1, 2, 11]


@pytest.mark.parametrize("text", ["\nhello", " hello", "hello", "", "</s>hello", "\n"])
def test_text_after_a_special_token_has_the_ids_that_it_has_in_the_whole(tmp_path: Path, text: str):
    pieces = ["<unk>", "</s>", "▁hello", "▁", "hello", "\n", "x"]
    raw = RawTokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.add_special_tokens(["</s>"])
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7, "eos_token_id": 1}))
    tokenizer = Tokenizer(tmp_path)
    before, whole = tokenizer.rendered_ids("x</s>"), tokenizer.rendered_ids("x</s>" + text)
    assert [*before, *tokenizer.rendered_ids(text, after=1)] == whole
    assert tokenizer.part(whole)
