"""Whether an SGLang server has the model that a run is about: a refit to the weights of another one would kill it.

A server says at /model_info from which directory it has loaded its model, and that model's type. Where the directory can be
read here, the sizes are compared too; where it cannot (a server on another machine, a version that has been removed since),
two models of one type cannot be told apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "moe_intermediate_size", "num_experts",
)  # fmt: skip


def difference(model_info: Mapping[str, Any], model: Path) -> str | None:
    """Says how a server's model differs from the run's; None if nothing shows that it does.

    Args:
        model_info: the server's answer at /model_info.
        model: the run's model directory; without a readable config.json nothing is compared.
    """
    ours = config_of(model)
    if ours is None:
        return None
    path = model_info.get("model_path")
    theirs = config_of(Path(path)) if isinstance(path, str) else None
    told = {
        **(theirs or {}),
        **{key: model_info.get(key) for key in ("model_type", "architectures") if model_info.get(key)},
    }
    for name in ("model_type", "architectures", *_SIZES):
        if told.get(name) and ours.get(name) and told[name] != ours[name]:
            return f"it serves {path}, whose {name} is {told[name]!r}; model = {model} has {ours[name]!r}"
    return None


def config_of(model: Path) -> dict[str, Any] | None:
    """Content of a model directory's config.json; None where it cannot be read."""
    try:
        config = json.loads((model / "config.json").read_text())
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None
