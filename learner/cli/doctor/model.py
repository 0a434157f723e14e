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
from learner.config.adapters import lora_violations
from learner.config.architectures import balance_faults, layout_violations
from learner.config.latent import LATENT_EPSILON, is_latent
from learner.config.memory import adapter_count, parameter_count
from learner.config.model_config import ModelError, read_config
from learner.config.model_keys import unknown_keys
from learner.config.model_tensors import is_left_out
from learner.config.model_types import MODEL_TYPES
from learner.config.model_weights import check_tensors, stored_tensors
from learner.config.rope import derived_attention_factor, rope_settings
from learner.config.routing import DENSE_REPLAY, routing_shape
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
    yield from _latent_norms(directory, config)
    yield from _latent_biases(directory, config)
    yield from tied_head(directory, config)
    yield from _balance(examined, config)
    yield from _adapters(examined, config)
    if examined.learner is not None and examined.learner.replay_routing and routing_shape(config) is None:
        yield fail("model", DENSE_REPLAY, "change [learner]")
    layout, vocabulary = list(_layout(config, parallel)), [*_vocabulary(directory, config["vocab_size"])]
    yield from (*layout, *vocabulary)
    try:
        tensors = stored_tensors(directory)
        check_tensors(directory, config, tensors)
    except ModelError as error:
        yield from _faults(error, "copy the model again if a file is incomplete")
        return
    yield from _left_out(directory, config, tensors)
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


def _latent_norms(directory: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Warns where SGLang's norms of latents add another number than those of transformers do."""
    epsilon = config["rms_norm_eps"]
    if is_latent(config) and abs(epsilon - LATENT_EPSILON) > _EQUAL * LATENT_EPSILON:
        text = (
            f"{directory / 'config.json'}: rms_norm_eps = {epsilon:g} is read by SGLang for the norms of latents too, where "
            f"transformers, the model's own code and the learner take {LATENT_EPSILON:g}"
        )
        yield warn("model", text, "watch the distance of the engine's log-probabilities from the learner's")


def _latent_biases(directory: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Warns of biases that SGLang has no place for: it passes over their tensors without a word."""
    if is_latent(config) and config.get("attention_bias"):
        text = (
            f"{directory / 'config.json'}: attention_bias = true is read by transformers and the learner, and not by SGLang, "
            "which leaves the biases of latents and outputs out"
        )
        yield warn("model", text, "make sure that the engine reads them, or choose a model without them")


def tied_head(directory: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Warns of a head that SGLang does not tie to the embedding: no version has its tensor, and the engine samples noise.

    Args:
        directory: the model.
        config: content of its config.json.
    """
    kind = config["model_type"]
    if config.get("tie_word_embeddings") and not MODEL_TYPES[kind].engine_ties:
        text = (
            f"{directory / 'config.json'}: tie_word_embeddings = true is not read by SGLang for {kind}: its head would have "
            "the numbers that memory happened to hold"
        )
        yield warn("model", text, "set it to false, with a copy of the embedding as lm_head.weight")


def _balance(examined: ExaminedConfig, config: Mapping[str, Any]) -> Iterator[Finding]:
    rate = examined.learner.optimizer.expert_bias_rate if examined.learner is not None else 0.0
    yield from (fail("model", fault, "change [learner.optimizer]") for fault in balance_faults(config, rate))


def _adapters(examined: ExaminedConfig, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks that the model can have the adapters of [learner.lora], and says how many parameters those have."""
    learner = examined.learner
    if learner is None or learner.lora is None:
        return
    faults = list(lora_violations(config, learner.lora, learner.parallel))
    yield from (fail("adapters", fault, "change [learner.lora]") for fault in faults)
    if not faults:
        count, whole = adapter_count(config, learner.lora), parameter_count(config)
        text = f"rank {learner.lora.rank} on {', '.join(learner.lora.targets)}: {count:,} of {whole:,} parameters are trained"
        yield ok("adapters", text)


def _left_out(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> Iterator[Finding]:
    """Says which tensors no version has: an engine that drafts with them would look for them there."""
    names = [name for name in tensors if is_left_out(name, config)]
    if names:
        text = (
            f"{directory}: {len(names)} tensors of layers that predict further tokens (num_nextn_predict_layers = "
            f"{config['num_nextn_predict_layers']}) are neither trained nor published, such as {names[0]}"
        )
        yield warn("model", text, "an engine that drafts with these layers must read them from this directory")


def _summary(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> str:
    count = sum(tensor.count for name, tensor in tensors.items() if not is_left_out(name, config))
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
