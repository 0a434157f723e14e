"""Checks the initial policy's directory: its files, its architecture, its tokenizer, and whether it fits the layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.cli.preflight.finding import Finding, fail, ok, size, warn
from learner.cli.preflight.network import DEMO_CONFIGS
from learner.cli.up.model_check import require_files
from learner.config import ParallelConfig
from learner.config.architectures import layout_violations
from learner.config.model_config import ModelError, read_config
from learner.config.model_keys import unknown_keys
from learner.config.model_weights import check_tensors, stored_tensors
from learner.config.rope import derived_attention_factor, rope_settings
from learner.config.tokenizer_ids import largest_token
from runtime.settings import SettingsError
from runtime.version_format.safetensors_header import StoredTensor

DEMO_PARAMETERS = 600_000
_EQUAL = 1e-6  # relative distance of two factors that are the same, written with fewer digits


def model(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that config.json, weights and tokenizer exist, are complete, can be trained, and fit the parallel layout."""
    parallel = examined.learner.parallel if examined.learner is not None else ParallelConfig()
    if examined.demo_model:
        bad = list(_layout(DEMO_CONFIGS[examined.demo_model], parallel))
        yield from bad
        if not bad:
            yield ok("model", "`leeway up` will make the demo's model")
        return
    directory = examined.model
    if directory is None:
        return
    try:
        require_files(directory)
        config = read_config(directory)
    except SettingsError as error:
        yield fail("model", str(error), "download it there, or mount the volume that has it")
        return
    except ModelError as error:
        yield from _faults(error, "use a model that the learner computes, or correct its config.json")
        return
    yield from _unknown(directory, config)
    yield from _attention_factor(directory, config)
    layout, vocabulary = list(_layout(config, parallel)), [*_vocabulary(directory, config["vocab_size"])]
    yield from (*layout, *vocabulary)
    try:
        tensors = stored_tensors(directory)
        check_tensors(directory, config, tensors)
    except ModelError as error:
        yield from _faults(error, "copy the model again if a file is incomplete")
        return
    if not layout:
        yield ok("model", _summary(directory, config, tensors))


def parameters(examined: ExaminedConfig) -> int | None:
    """Number of the model's parameters; None when it cannot be read, which ``model`` reports."""
    if examined.demo_model:
        return DEMO_PARAMETERS
    try:
        if examined.model is not None:
            return sum(tensor.count for tensor in stored_tensors(examined.model).values())
    except ModelError:
        pass
    return None


def _layout(config: Mapping[str, Any], parallel: ParallelConfig) -> Iterator[Finding]:
    for violation in layout_violations(config, parallel):
        yield fail("model", violation.text, "change [learner.parallel]")


def _faults(error: ModelError, fix: str) -> Iterator[Finding]:
    yield from (fail("model", line, fix) for line in str(error).splitlines())


def _unknown(directory: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Warns of keys that nobody has looked at: the engine may compute something by them that the learner does not."""
    keys = unknown_keys(config)
    if keys:
        text = f"{directory / 'config.json'}: unknown keys, which the learner ignores: {', '.join(keys)}"
        yield warn("model", text, "make sure that they do not change what the model computes")


def _attention_factor(directory: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Warns of a factor of yarn that SGLang does not read: it would sample from another model than is trained."""
    rope = rope_settings(config)
    given = rope.get("attention_factor")
    if given is None:
        return
    derived = derived_attention_factor(rope)
    if abs(given - derived) > _EQUAL * derived:
        text = (
            f"{directory / 'config.json'}: attention_factor = {given:g} is read by transformers and the learner, and not by "
            f"SGLang, which computes {derived:g} from factor"
        )
        yield warn("model", text, "make sure that the engine reads it, or choose a model without it")


def _summary(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> str:
    count = sum(tensor.count for tensor in tensors.values())
    files = {tensor.file for tensor in tensors.values()}
    stored = size(sum(path.stat().st_size for path in files))
    return f"{directory}: {config['model_type']}, {count:,} parameters, {config['vocab_size']:,} token ids, {stored}"


def _vocabulary(directory: Path, rows: int) -> Iterator[Finding]:
    """Checks that the model has a row for each token of the tokenizer, and says what a gateway has to know."""
    largest = largest_token(directory)
    if largest is not None and largest >= rows:
        text = f"the tokenizer has id {largest}, the model's vocabulary ends at {rows - 1}"
        yield fail("vocabulary", text, "use the model's own tokenizer.json")
    elif largest is not None and largest + 1 < rows:
        text = f"the tokenizer has {largest + 1} token ids, the model {rows}: limits.vocab_size of gateways is {largest + 1}"
        yield ok("vocabulary", text)
