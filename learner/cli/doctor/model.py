"""The initial policy's directory."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learner.cli.doctor.finding import Finding, fail, ok, size
from learner.cli.doctor.subject import Subject
from learner.cli.up.model_check import vocabulary_size
from learner.config import ParallelConfig
from runtime.settings import SettingsError

SUPPORTED = ("llama", "qwen2", "qwen3", "qwen3_moe")  # as learner.megatron.model.architecture, which needs torch
DEMO_PARAMETERS = 600_000
_MOST_HEADER = 100 << 20


def model(subject: Subject) -> Iterator[Finding]:
    """config.json, weights and tokenizer are there, whole, of an architecture that can be trained, and fit the layout."""
    if subject.makes_model:
        yield ok("model", "the demo's: `leeway up` makes it")
        return
    directory = subject.model
    if directory is None:
        return
    fix = "download it there, or mount the volume that has it"
    cut = subject.learner.parallel if subject.learner is not None else ParallelConfig()
    try:
        vocabulary = vocabulary_size(directory, cut)
        kind = json.loads((directory / "config.json").read_text()).get("model_type")
        tensors = tensors_of(directory)
    except SettingsError as error:
        yield fail("model", str(error), fix)
        return
    except (OSError, ValueError) as error:
        yield fail("model", f"{directory}: {error}", "copy it again: a file is incomplete")
        return
    if kind not in SUPPORTED:
        yield fail("model", f"{directory}: model_type = {kind!r}", f"supported: {', '.join(SUPPORTED)}")
        return
    yield from _vocabulary(subject, directory, vocabulary)
    count = sum(tensors.values())
    yield ok("model", f"{directory}: {kind}, {count:,} parameters, {vocabulary:,} token ids, {_weight(directory)}")


def parameters(subject: Subject) -> int | None:
    """How many the model has; None when it cannot be read (which ``model`` says)."""
    if subject.makes_model:
        return DEMO_PARAMETERS
    try:
        return None if subject.model is None else sum(tensors_of(subject.model).values())
    except (OSError, ValueError):
        return None


def tensors_of(directory: Path) -> dict[str, int]:
    """Tensor name -> number of elements, from the headers alone.

    Raises:
        ValueError, OSError: a file is cut short, its header is damaged, or the index names a file or a tensor that is not
            there.
    """
    tensors: dict[str, int] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= _tensors(path)
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        listed = json.loads(index.read_text())["weight_map"]
        missing = sorted(name for name in listed if name not in tensors)
        if missing:
            raise ValueError(f"{index.name} lists {missing[0]} in {listed[missing[0]]}, and no file has it")
    if not tensors:
        raise ValueError("no tensor in any *.safetensors")
    return tensors


def _tensors(path: Path) -> dict[str, int]:
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < length <= _MOST_HEADER:
            raise ValueError(f"{path.name}: not a safetensors file")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    ends = [entry["data_offsets"][1] for entry in header.values()]
    expected, found = 8 + length + max(ends, default=0), path.stat().st_size
    if found != expected:
        raise ValueError(f"{path.name}: {found} bytes, its header says {expected}")
    return {name: _product(entry["shape"]) for name, entry in header.items()}


def _product(shape: list[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def _vocabulary(subject: Subject, directory: Path, vocabulary: int) -> Iterator[Finding]:
    """The gateway refuses ids at or above its vocab_size; the model has no row for those above its own."""
    said = (
        subject.gateway.limits.vocab_size if subject.gateway is not None and subject.kind == "gateway" else vocabulary
    )
    if said != vocabulary:
        text = f"limits.vocab_size = {said}, {directory} has {vocabulary}"
        yield fail("vocabulary", text, f"set it to {vocabulary}")
    largest = _largest_token(directory)
    if largest is not None and largest >= vocabulary:
        text = f"the tokenizer has id {largest}, the model's vocabulary ends at {vocabulary - 1}"
        yield fail("vocabulary", text, "the tokenizer belongs to another model")


def _largest_token(directory: Path) -> int | None:
    try:
        tokenizer = json.loads((directory / "tokenizer.json").read_text())
        added = [entry["id"] for entry in tokenizer.get("added_tokens", [])]
        vocabulary = tokenizer["model"]["vocab"]
        ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
        return max([*ids, *added], default=None)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _weight(directory: Path) -> str:
    return size(sum(path.stat().st_size for path in directory.glob("*.safetensors")))
