"""The modules that layers are built of, by configuration and by what the machine has."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from learner.config import LearnerConfig
from learner.megatron.model import layers
from learner.megatron.model.architecture import ModelError
from learner.megatron.model.attention import PackedAttention
from learner.megatron.model.latent_attention import LatentAttention
from learner.megatron.model.layers import OWN, TRANSFORMER_ENGINE, LayerBackend, select_backend, submodules_of


def configured(**changes: object) -> LearnerConfig:
    given = {"model": "m", "queue": {"url": "redis://unused", "run": "test"}, "steps": 1, "metrics_dir": "unused"}
    return LearnerConfig.parse(
        given | {"checkpoint": {"dir": "unused"}, "publish": {"dir": "unused"}} | changes, source="test"
    )


@pytest.fixture
def machine(monkeypatch):
    def has(cuda: bool, package: bool) -> None:
        monkeypatch.setattr(layers.torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(layers.importlib.util, "find_spec", lambda name: object() if package else None)

    return has


@pytest.mark.parametrize(
    ("wanted", "dtype", "cuda", "package", "backend"),
    [
        ("auto", "bfloat16", True, True, TRANSFORMER_ENGINE),
        ("auto", "float32", True, True, OWN),
        ("auto", "bfloat16", False, True, OWN),
        ("auto", "bfloat16", True, False, OWN),
        ("own", "bfloat16", True, True, OWN),
        ("transformer_engine", "float32", True, True, TRANSFORMER_ENGINE),
    ],
)
def test_the_backend_follows_the_machine_unless_told_otherwise(machine, wanted, dtype, cuda, package, backend):
    machine(cuda, package)
    assert select_backend(configured(layers=wanted, dtype=dtype)) is backend


def test_the_default_is_our_own_layers_even_where_transformer_engine_is_installed(machine):
    machine(True, True)
    assert select_backend(configured(dtype="bfloat16")) is OWN


@pytest.mark.parametrize(
    ("cuda", "package", "lacking"),
    [
        (False, False, "a CUDA device and the package transformer_engine"),
        (False, True, "a CUDA device"),
        (True, False, "the package transformer_engine"),
    ],
)
def test_what_cannot_run_is_refused_by_name(machine, cuda, package, lacking):
    machine(cuda, package)
    with pytest.raises(
        ModelError, match=f'^layers = "transformer_engine" needs {lacking}, which this machine lacks: set'
    ):
        select_backend(configured(layers="transformer_engine"))


@pytest.mark.parametrize("specify", [SimpleNamespace, partial])
def test_the_submodules_of_either_kind_of_specification_can_be_changed(specify: Any):
    """megatron-core 0.16.1 specifies the MLP by a ModuleSpec, which has the attribute, 0.19.2 by a partial."""
    given = SimpleNamespace(linear_fc1="megatron's")
    spec = specify(submodules=given) if specify is SimpleNamespace else specify(object, submodules=given)
    submodules_of(spec).linear_fc1 = "ours"
    assert given.linear_fc1 == "ours"


def test_every_linear_layer_and_norm_of_a_dense_layer_is_the_backends():
    backend = LayerBackend("test", column=object(), row=object(), norm=object())
    architecture: Any = SimpleNamespace(qk_norm=True, output_bias=False, latent=None)
    layer = layers._layer(backend, architecture, None).submodules
    attention, mlp = submodules_of(layer.self_attention), submodules_of(layer.mlp)
    assert {layer.input_layernorm, layer.pre_mlp_layernorm, attention.q_layernorm, attention.k_layernorm} == {
        backend.norm
    }
    assert {attention.linear_qkv, mlp.linear_fc1} == {backend.column}
    assert {attention.linear_proj, mlp.linear_fc2} == {backend.row}
    assert attention.core_attention is PackedAttention


def test_attention_with_latents_is_made_of_the_backends_modules():
    backend = LayerBackend("test", column=object(), row=object(), norm=object())
    architecture: Any = SimpleNamespace(qk_norm=False, latent=object())
    attention = layers._layer(backend, architecture, None).submodules.self_attention
    assert attention.module is LatentAttention
    given = {"column": backend.column, "row": backend.row, "norm": backend.norm}
    assert attention.params == {"sizes": architecture.latent, **given}
