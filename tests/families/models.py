"""The models that are tried: every model of the equivalence matrix, and every variant of the tests of single ranks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM

from learner.config.model_types import MODEL_TYPES
from tests.parallel import reference
from tests.unit.learner.megatron.model import test_model_types as one_rank

# Keys that published files of a class have and SGLang wants, and that transformers does not write.
_FILE_KEYS: dict[str, dict[str, Any]] = {
    "DeepseekV3ForCausalLM": {"moe_layer_freq": 1, "scoring_func": "sigmoid", "topk_method": "noaux_tc"},
}

# On a CPU SGLang takes hidden_size / num_attention_heads for the head_dim of Qwen2, whatever config.json says.
_CPU_SIZES: dict[str, dict[str, int]] = {
    "qwen2": {"head_dim": one_rank.SIZES["hidden_size"] // one_rank.SIZES["num_attention_heads"]},
}


@dataclass(frozen=True)
class Family:
    """A model that is tried.

    Attributes:
        name: of the model.
        kind: its model_type.
        config: of transformers, which may know the model under another type.
    """

    name: str
    kind: str
    config: Any


def families() -> list[Family]:
    """All models; those of one model type stand together.

    A new entry of MODEL_TYPES is tried as soon as the matrix or the tests of single ranks have a model of it.
    """
    matrix = [(name, make()) for name, make in reference.MODELS.items()]
    found = [Family(name, config.model_type, config) for name, config in matrix]
    for name, changes in one_rank.MODELS.items():
        kind = name.split()[0]
        sizes = {**one_rank.SIZES, **changes, **_CPU_SIZES.get(kind, {})}
        found.append(Family(name, kind, AutoConfig.for_model(MODEL_TYPES[kind].alias_of or kind, **sizes)))
    order = list(MODEL_TYPES)
    return sorted(found, key=lambda family: (order.index(family.kind), family.name))


def without_model() -> list[str]:
    """Model types of which there is no model: add one to tests/parallel/reference.py."""
    return sorted(MODEL_TYPES.keys() - {family.kind for family in families()})


def write_model(directory: Path, family: Family, seed: int) -> None:
    """Writes a model of random weights, as large as trained ones, which ends no response by itself.

    Args:
        directory: where to.
        family: its end token is left out, so that responses have the length that is asked for.
        seed: of the weights.
    """
    family.config.eos_token_id = family.config.bos_token_id = family.config.pad_token_id = None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(family.config).float()
    with torch.no_grad():
        for tensor in model.state_dict().values():  # parameters, and the correction biases of routers, which are none
            tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(directory)
    path = directory / "config.json"
    own = {"model_type": family.kind, **_FILE_KEYS.get(MODEL_TYPES[family.kind].class_name, {})}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    # A tokenizer whose tokens are numbers: `leeway doctor` asks for one, and nobody uses it.
    words = WordLevel({str(number): number for number in range(family.config.vocab_size)}, unk_token="0")
    Tokenizer(words).save(str(directory / "tokenizer.json"))


def load(directory: Path, family: Family) -> Any:
    """Loads a model of a family into transformers in float32."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory, config=family.config, dtype=torch.float32)
    return model.eval()
