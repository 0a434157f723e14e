"""Checks the initial policy's directory: its files, its architecture, its tokenizer, and whether it fits the layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from learner.cli.doctor.examined_config import ExaminedConfig
from learner.cli.doctor.finding import Finding, fail, ok, size
from learner.cli.up.model_check import vocabulary_size
from learner.config import ParallelConfig
from learner.config.architectures import SUPPORTED_MODEL_TYPES
from runtime.settings import SettingsError
from runtime.version_format.safetensors_header import read_header

DEMO_PARAMETERS = 600_000


def model(examined: ExaminedConfig) -> Iterator[Finding]:
    """Checks that config.json, weights and tokenizer exist, are complete, can be trained, and fit the parallel layout."""
    if examined.makes_model:
        yield ok("model", "`leeway up` will make the demo's model")
        return
    directory = examined.model
    if directory is None:
        return
    fix = "download it there, or mount the volume that has it"
    parallel = examined.learner.parallel if examined.learner is not None else ParallelConfig()
    try:
        vocabulary = vocabulary_size(directory, parallel)
        kind = json.loads((directory / "config.json").read_text()).get("model_type")
        tensors = tensors_of(directory)
    except SettingsError as error:
        yield fail("model", str(error), fix)
        return
    except (OSError, ValueError) as error:
        yield fail("model", f"{directory}: {error}", "copy the model again: a file is incomplete")
        return
    if kind not in SUPPORTED_MODEL_TYPES:
        yield fail("model", f"{directory}: model_type = {kind!r}", f"supported: {', '.join(SUPPORTED_MODEL_TYPES)}")
        return
    yield from _vocabulary(examined, directory, vocabulary)
    count = sum(tensors.values())
    yield ok("model", f"{directory}: {kind}, {count:,} parameters, {vocabulary:,} token ids, {_bytes_of(directory)}")


def parameters(examined: ExaminedConfig) -> int | None:
    """Number of the model's parameters; None when it cannot be read, which ``model`` reports."""
    if examined.makes_model:
        return DEMO_PARAMETERS
    try:
        return None if examined.model is None else sum(tensors_of(examined.model).values())
    except (OSError, ValueError):
        return None


def tensors_of(directory: Path) -> dict[str, int]:
    """Number of elements of each tensor by name, read from the headers of the files alone.

    Raises:
        ValueError, OSError: a file is incomplete, its header is damaged, or the index lists a tensor that no file has.
    """
    tensors: dict[str, int] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= {name: tensor.count for name, tensor in read_header(path).tensors.items()}
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        listed = json.loads(index.read_text())["weight_map"]
        missing = sorted(name for name in listed if name not in tensors)
        if missing:
            raise ValueError(f"{index.name} lists {missing[0]} in {listed[missing[0]]}, and no file has it")
    if not tensors:
        raise ValueError("no tensor in any *.safetensors")
    return tensors


def _vocabulary(examined: ExaminedConfig, directory: Path, vocabulary: int) -> Iterator[Finding]:
    """Checks that gateway and tokenizer use the token ids of the model: an id at or above its vocabulary has no row."""
    configured = (
        examined.gateway.limits.vocab_size
        if examined.gateway is not None and examined.kind == "gateway"
        else vocabulary
    )
    if configured != vocabulary:
        text = f"limits.vocab_size = {configured}, but the model in {directory} has {vocabulary}"
        yield fail("vocabulary", text, f"set it to {vocabulary}")
    largest = _largest_token(directory)
    if largest is not None and largest >= vocabulary:
        text = f"the tokenizer has id {largest}, the model's vocabulary ends at {vocabulary - 1}"
        yield fail("vocabulary", text, "use the model's own tokenizer.json")


def _largest_token(directory: Path) -> int | None:
    try:
        tokenizer = json.loads((directory / "tokenizer.json").read_text())
        added = [entry["id"] for entry in tokenizer.get("added_tokens", [])]
        vocabulary = tokenizer["model"]["vocab"]
        ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
        return max([*ids, *added], default=None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _bytes_of(directory: Path) -> str:
    return size(sum(path.stat().st_size for path in directory.glob("*.safetensors")))
