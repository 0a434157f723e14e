"""The initial policy's directory, looked at before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

from learner.config import ParallelConfig
from runtime.settings import SettingsError

_NEEDED = ("config.json", "*.safetensors", "tokenizer.json")


def vocabulary_size(directory: Path, cut: ParallelConfig) -> int:
    """Checks that ``directory`` holds a Hugging Face model that can be cut so; returns its number of token ids.

    Raises:
        SettingsError: naming model.path or the key of learner.parallel that does not fit.
    """
    if not directory.is_dir():
        raise SettingsError(f'model.path = "{directory}": no such directory; expected a Hugging Face model, or "demo"')
    for pattern in _NEEDED:
        if not any(directory.glob(pattern)):
            raise SettingsError(f'model.path = "{directory}": it has no {pattern}; expected a Hugging Face model')
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
        vocabulary = int(config["vocab_size"])
        heads, layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        pairs = int(config.get("num_key_value_heads") or heads)
        experts = int(config.get("num_experts") or config.get("num_local_experts") or 0)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: not the configuration of a causal language model: {error!r}") from error
    _divides("tensor", cut.tensor, "num_attention_heads", heads)
    _divides("tensor", cut.tensor, "num_key_value_heads", pairs)
    _divides("pipeline", cut.pipeline, "num_hidden_layers", layers)
    _divides("virtual_pipeline", cut.virtual_pipeline, "num_hidden_layers / pipeline", layers // cut.pipeline)
    _shares_experts(cut, experts)
    return vocabulary


def _shares_experts(cut: ParallelConfig, experts: int) -> None:
    """As learner.megatron.model.architecture, which needs torch."""
    if not experts and cut.expert > 1:
        raise SettingsError(
            f"learner.parallel.expert = {cut.expert}: the model is dense and has no experts; set it to 1"
        )
    if not experts:
        return
    _divides("expert", cut.expert, "num_experts", experts)
    if cut.tensor > 1 and not cut.sequence:
        raise SettingsError(
            f"learner.parallel.tensor = {cut.tensor} needs learner.parallel.sequence = true with a mixture of experts"
        )


def _divides(key: str, parts: int, name: str, size: int) -> None:
    if size % parts:
        raise SettingsError(f"learner.parallel.{key} = {parts} does not divide the model's {name} = {size}")
