"""The sizes of the model that a run will load, where they can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from learner.cli.preflight.examined_config import ExaminedConfig
from learner.config.model_config import ModelError, read_config

# Sizes of the models that `leeway up` makes, as rollout/data/demo_model.py writes them.
_DEMO = {
    "model_type": "qwen3",
    "vocab_size": 16,
    "hidden_size": 128,
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
DEMO_CONFIGS: dict[str, Mapping[str, Any]] = {"demo": _DEMO, "demo-tools": {**_DEMO, "vocab_size": 24}}


def network(examined: ExaminedConfig) -> Mapping[str, Any] | None:
    """Content of the model's config.json; None where there is none, or one that is refused, which other checks report."""
    if examined.demo_model:
        return DEMO_CONFIGS[examined.demo_model]
    if examined.model is None:
        return None
    try:
        return read_config(examined.model)
    except ModelError:
        return None
