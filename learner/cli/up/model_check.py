"""Checks the initial policy's directory before any process is started."""

from __future__ import annotations

import json
from pathlib import Path

from learner.config import ParallelConfig
from learner.config.architectures import layout_violations
from runtime.settings import SettingsError

_REQUIRED_FILES = ("config.json", "*.safetensors", "tokenizer.json")


def vocabulary_size(directory: Path, parallel: ParallelConfig) -> int:
    """Checks that a directory contains a Hugging Face model that fits the layout; returns its number of token ids.

    Args:
        directory: the model's directory.
        parallel: the learner's parallel layout.

    Raises:
        SettingsError: a file is missing or damaged, or a size of the layout does not fit the model. The message names
            model.path or the key of learner.parallel.
    """
    if not directory.is_dir():
        raise SettingsError(f'model.path = "{directory}": no such directory; expected a Hugging Face model, or "demo"')
    for pattern in _REQUIRED_FILES:
        if not any(directory.glob(pattern)):
            raise SettingsError(f'model.path = "{directory}": it has no {pattern}; expected a Hugging Face model')
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
        vocabulary = int(config["vocab_size"])
        violations = [violation.text for violation in layout_violations(config, parallel)]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: not the configuration of a causal language model: {error!r}") from error
    if violations:
        raise SettingsError("\n".join(violations))
    return vocabulary
