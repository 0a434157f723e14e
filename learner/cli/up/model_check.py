"""Checks the initial policy's directory before any process is started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learner.config import LoraConfig, ParallelConfig
from learner.config.adapters import lora_violations
from learner.config.architectures import layout_violations
from learner.config.model_config import ModelError, read_config
from learner.config.model_weights import check_tensors, stored_tensors
from learner.config.tokenizer_ids import largest_token
from runtime.settings import SettingsError

_REQUIRED_FILES = ("config.json", "*.safetensors", "tokenizer.json")


def require_files(directory: Path) -> None:
    """Checks that a directory has the files of a Hugging Face model.

    Raises:
        SettingsError: the directory or a file is missing; the message names model.path.
    """
    if not directory.is_dir():
        raise SettingsError(f'model.path = "{directory}": no such directory; expected a Hugging Face model, or "demo"')
    for pattern in _REQUIRED_FILES:
        if not any(directory.glob(pattern)):
            raise SettingsError(f'model.path = "{directory}": it has no {pattern}; expected a Hugging Face model')


def require_layout(config: Mapping[str, Any], parallel: ParallelConfig, lora: LoraConfig | None) -> None:
    """Checks that a model can be divided as a layout asks, and can have the adapters that are asked for.

    Args:
        config: content of the model's config.json.
        parallel: the learner's parallel layout.
        lora: its adapters; None: none.

    Raises:
        SettingsError: a size of the layout, or an adapter, does not fit; the message has a line for each.
    """
    violations = [violation.text for violation in layout_violations(config, parallel)]
    violations = violations or list(lora_violations(config, lora, parallel))
    if violations:
        raise SettingsError("\n".join(violations))


def vocabulary_size(directory: Path, parallel: ParallelConfig, lora: LoraConfig | None = None) -> int:
    """Checks that a directory contains a model that the learner computes and that fits the layout; counts its token ids.

    The learner refuses by the same rules, when it has been started. Of the weights, only the files' headers are read.
    Ids that the embedding has rows for and the tokenizer does not know do not count: they stand for no text.

    Args:
        directory: the model's directory.
        parallel: the learner's parallel layout.
        lora: its adapters; None: none.

    Raises:
        SettingsError: a file is missing or damaged, the model is not supported, or a size of the layout does not fit it. The
            message names model.path, the file or the key of learner.parallel.
    """
    require_files(directory)
    try:
        config = read_config(directory)
        require_layout(config, parallel, lora)
        check_tensors(directory, config, stored_tensors(directory))
    except ModelError as error:
        raise SettingsError(str(error)) from error
    largest = largest_token(directory)
    return config["vocab_size"] if largest is None else min(config["vocab_size"], largest + 1)
