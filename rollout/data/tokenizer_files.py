"""Reads the tokenizer of a Hugging Face directory as transformers' AutoTokenizer reads it, without transformers.

tokenizer.json alone is not the tokenizer: transformers resets the truncation and padding stored in it, and adds the tokens
that tokenizer_config.json, special_tokens_map.json and added_tokens.json declare. It leaves the stored post-processor as it
is: with a tokenizer.json, add_bos_token and add_eos_token have no effect. The order of the steps below is the one of
transformers' TokenizersBackend, because it decides the ids of the tokens that are added.

Some of transformers' classes (such as Qwen2Tokenizer) take only the vocabulary from the file and bring their own splitting
rules; a tokenizer.json that was published with such a class contains these rules too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as RawTokenizer

from runtime.errors import MISCONFIGURED, LeewayError

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


class TokenizerError(LeewayError):
    """A model directory whose tokenizer cannot be used. The message names the file or the token."""

    exit_status = MISCONFIGURED


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer files of a model directory, as read.

    Attributes:
        raw: converts text to ids and back; neither truncates nor pads.
        eos_token: the tokenizer's own end token, if it declares one.
        special: texts of the special tokens that have a name, such as bos_token, by this name.
        clean_up_spaces: decoded text loses the spaces before punctuation.
    """

    raw: RawTokenizer
    eos_token: str | None
    special: dict[str, str]
    clean_up_spaces: bool


def read_tokenizer(model: Path) -> TokenizerFiles:
    """Reads the tokenizer of a model directory. Raises TokenizerError when a file is missing or unreadable."""
    path = model / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"model = {model}: no tokenizer.json there")
    try:
        raw = RawTokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more precise for a malformed file
        raise TokenizerError(f"{path}: cannot be read as a tokenizer: {error}") from error
    settings = read_json(model / "tokenizer_config.json", optional=True)
    try:
        declared, names, extra = _declared(model, settings, raw.padding)
    except (AttributeError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"model = {model}: a token in tokenizer_config.json, special_tokens_map.json or added_tokens.json "
            f"cannot be read: {error}"
        ) from error
    raw.no_truncation()
    raw.no_padding()
    raw.encode_special_tokens = bool(settings.get("split_special_tokens", False))
    _add_missing(raw, declared, list(names.values()), extra)
    special = {name: _text(token) for name, token in names.items()}
    return TokenizerFiles(raw, special.get("eos_token"), special, _cleans_up(raw, settings))


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """Reads a JSON object; a missing file that is optional reads as an empty one. Raises TokenizerError."""
    if optional and not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


_Token = str | AddedToken


def _declared(
    model: Path, settings: Mapping[str, Any], padding: Mapping[str, Any] | None
) -> tuple[dict[int, AddedToken], dict[str, _Token], list[_Token]]:
    """Returns the added tokens by id, the special tokens by name, and the special tokens without a name."""
    values = dict(settings)
    if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    named = _pop_named(values)
    if "added_tokens_decoder" in settings:
        found = [(int(index), _token(token)) for index, token in settings["added_tokens_decoder"].items()]
    else:
        _merge_special_tokens_map(values, read_json(model / "special_tokens_map.json", optional=True))
        named |= _pop_named(values)
        found = _added_by_other_files(model, values)
    extra = values.get("extra_special_tokens", values.get("additional_special_tokens")) or []
    added = dict(found)
    by_text = {token.content: token for _, token in found}  # also of a token whose id a later one has taken
    names: dict[str, _Token] = {}
    for name in _NAMED:
        if values.get(name) is not None:
            token = _as_declared(values[name])
            names[name] = by_text.get(_text(token), token)
        elif name == "pad_token" and name not in values and padding is not None:
            names[name] = padding[name]
    for name, token in {**values, **named}.items():
        if name in named or (name.endswith("_token") and name not in _NAMED and isinstance(token, (str, dict))):
            names[name] = _as_declared(token)
    return added, names, [_as_declared(token) for token in extra]


def _pop_named(values: dict[str, Any]) -> dict[str, Any]:
    """Takes the tokens out that extra_special_tokens gives names to, where it is a mapping and not a list."""
    return values.pop("extra_special_tokens") if isinstance(values.get("extra_special_tokens"), dict) else {}


def _merge_special_tokens_map(values: dict[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name == "extra_special_tokens" and isinstance(value, list):
            known = list(values.get(name) or [])
            values[name] = known + [token for token in value if token not in known]
        else:
            values[name] = {**value, "special": True} if isinstance(value, dict) and "content" in value else value


def _added_by_other_files(model: Path, values: Mapping[str, Any]) -> list[tuple[int, AddedToken]]:
    """Returns the tokens that added_tokens.json and tokenizer.json add, each with its id, in their order."""
    extra = values.get("extra_special_tokens") or []
    special = {_text(_as_declared(values[name])) for name in _NAMED if values.get(name)}
    special |= {_text(_as_declared(token)) for token in extra}
    added = [
        (index, AddedToken(text, normalized=text not in special, special=text in special))
        for text, index in read_json(model / "added_tokens.json", optional=True).items()
    ]
    return [*added, *((one["id"], _token(one)) for one in read_json(model / "tokenizer.json").get("added_tokens", []))]


def _add_missing(raw: RawTokenizer, added: Mapping[int, AddedToken], names: list[_Token], extra: list[_Token]) -> None:
    """Adds the declared tokens in the order of transformers: by id, then the named ones, then the others."""
    tokens: list[_Token] = [token for _, token in sorted(added.items(), key=lambda item: item[0])]
    known = {token.content for token in raw.get_added_tokens_decoder().values()} | {_text(token) for token in tokens}
    for token in [*names, *extra]:
        # One text may come twice, once as a string and once with its flags; the later then decides, as in transformers.
        if _text(token) not in known and token not in tokens:
            tokens.append(token)
    named = {_text(name) for name in names}
    for position, token in enumerate(tokens):
        if isinstance(token, str):
            tokens[position] = AddedToken(token, special=True)
        elif token.content in named:
            token.special = True
    raw.add_tokens(tokens)


def _cleans_up(raw: RawTokenizer, settings: Mapping[str, Any]) -> bool:
    # On BPE it would take away spaces that belong to the text; transformers does so only where the model insists.
    insisted = settings.get("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
    bpe = type(raw.model).__name__ == "BPE"
    return bool(settings.get("clean_up_tokenization_spaces", False)) and (not bpe or bool(insisted))


def _as_declared(value: Any) -> _Token:
    return value if isinstance(value, str) else _token(value)


def _token(value: Any) -> AddedToken:
    return AddedToken(**{field: value[field] for field in _FIELDS if field in value})


def _text(token: _Token) -> str:
    return token if isinstance(token, str) else token.content
