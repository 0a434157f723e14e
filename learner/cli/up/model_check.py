"""Checks the initial policy's directory before any process is started."""

from __future__ import annotations

from pathlib import Path

from learner.config import ParallelConfig
from learner.config.architectures import layout_violations
from learner.config.model_config import ModelError, read_config
from learner.config.model_weights import check_tensors, stored_tensors
from runtime.settings import SettingsError

_REQUIRED_FILES = ("config.json", "*.safetensors", "tokenizer.json")
# Sizes of the model that `leeway up` makes for the demo, as rollout/data/demo_model.py writes them.
DEMO_CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 16,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


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


def vocabulary_size(directory: Path, parallel: ParallelConfig) -> int:
    """Checks that a directory contains a model that the learner computes and that fits the layout; returns its token ids.

    The learner refuses by the same rules, when it has been started. Of the weights, only the files' headers are read.

    Args:
        directory: the model's directory.
        parallel: the learner's parallel layout.

    Raises:
        SettingsError: a file is missing or damaged, the model is not supported, or a size of the layout does not fit it. The
            message names model.path, the file or the key of learner.parallel.
    """
    require_files(directory)
    try:
        config = read_config(directory)
        violations = [violation.text for violation in layout_violations(config, parallel)]
        if violations:
            raise SettingsError("\n".join(violations))
        check_tensors(directory, config, stored_tensors(directory))
    except ModelError as error:
        raise SettingsError(str(error)) from error
    return config["vocab_size"]
