"""The table of architectures: complete, and the documentation is made from it."""

from __future__ import annotations

import pytest

from learner.config.layer_parameters import EXPERT_PARAMETERS, LAYER_PARAMETERS
from learner.config.model_types import MODEL_TYPES
from learner.config.rope import ROPE_TYPES
from tests.tools import model_reference


def test_the_documented_models_are_those_of_the_code():
    assert model_reference.FILE.read_text() == model_reference.text(), (
        "run `python -m tests.tools.model_reference --write` and commit"
    )


def test_every_entry_is_consistent():
    for name, known in MODEL_TYPES.items():
        assert {*known.rope_types} <= ROPE_TYPES.keys(), name
        assert (known.bias in ("configured", "qkv configured")) == ("attention_bias" in known.reads), name
        assert known.default_window is None or known.window, name


@pytest.mark.parametrize("attention", [{"grouped"}, {"latent", "query latent"}, {"latent", "no query latent"}])
def test_a_tensor_belongs_to_one_parameter(attention: set[str]):
    """Layers with latents, and those without, have tensors of the same names."""
    others = {"grouped", "latent", "query latent", "no query latent"} - attention
    tables = (LAYER_PARAMETERS, EXPERT_PARAMETERS)
    names = [name for table in tables for one in table.values() if one.part not in others for name in one.tensors]
    assert len(names) == len(set(names))
