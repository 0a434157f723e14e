"""Attention with latents: what is whole on every rank, the norms, the rotation, and one call over a whole row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from learner.config.latent import Latent
from learner.megatron.model import attention
from learner.megatron.model.kernels import Kernels
from learner.megatron.model.latent_attention import LatentAttention, WholeLinear
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rms_norm import RMSNorm
from learner.megatron.model.rotary import Rotary
from tests.tools.varlen import VarlenStandIn

SIZES = Latent(query_rank=5, rank=6, plain=4, rotated=4, value=3, interleaved=True, scale=0.3, bias=False)
HIDDEN, HEADS, LENGTHS = 8, 2, (9, 6)


class Split(torch.nn.Linear):
    """A linear layer that one rank has whole."""

    def __init__(self, inputs: int, outputs: int, **options: Any) -> None:
        super().__init__(inputs, outputs, bias=options["bias"])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


def layer(**changes: Any) -> LatentAttention:
    config: Any = SimpleNamespace(
        hidden_size=HIDDEN, num_attention_heads=HEADS, params_dtype=torch.float32, sequence_parallel=False, init_method=None,
        persist_layer_norm=False,
    )  # fmt: skip
    alone: Any = SimpleNamespace(tp=SimpleNamespace(size=lambda: 1))
    torch.manual_seed(0)
    made = LatentAttention(config, SIZES, Split, Split, RMSNorm, pg_collection=alone)
    for name, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.4)
    return made


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    same = "learner.megatron.model.latent_attention.tensor_parallel.copy_to_tensor_model_parallel_region"
    monkeypatch.setattr(same, lambda x: x)


def row(kernels: Kernels) -> PackedRow:
    sequences = [Sequence(torch.zeros(n, dtype=torch.int64), torch.arange(n) > 1, 1.0, 1.0) for n in LENGTHS]
    angles = Rotary(1.0 / 100.0 ** (torch.arange(0, SIZES.rotated, 2) / SIZES.rotated))
    packed = pack(sequences, Layout()).micro_batches[0]
    return PackedRow.of(packed, angles, torch.float32, torch.device("cpu"), kernels=kernels)


def test_one_call_over_the_row_equals_the_padded_calls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(attention, "varlen_attention", VarlenStandIn)
    model, found = layer(), []
    hidden = torch.randn(sum(LENGTHS), 1, HIDDEN, requires_grad=True)
    for kernels in (Kernels(), Kernels(varlen=True)):
        output, bias = model(hidden, packed_seq_params=row(kernels), attention_mask=None)
        assert bias is None
        found.append([output, *torch.autograd.grad(output.square().sum(), [hidden, *model.parameters()])])
    assert found[0][0].shape == hidden.shape
    for padded, whole in zip(*found, strict=True):
        assert torch.allclose(padded, whole, atol=1e-5)


def test_neighbouring_channels_are_rotated_together_and_lie_apart_afterwards():
    """At position 1 the two pairs turn by 1 and by 0.1."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(sum(LENGTHS), 1, 4)
    turned = layer()._turn(x, row(Kernels()))[1, 0]
    pairs = torch.complex(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0])) * torch.polar(
        torch.ones(2), torch.tensor([1.0, 0.1])
    )
    assert torch.allclose(turned, torch.cat([pairs.real, pairs.imag]))


def test_the_norms_of_latents_add_what_transformers_adds():
    model = layer()
    assert model.q_latent_layernorm._eps == model.kv_latent_layernorm._eps == 1e-6


@pytest.mark.parametrize("sequence", [False, True])
def test_gradients_of_what_every_rank_has_are_summed_where_ranks_share_the_tokens(sequence: bool):
    config = SimpleNamespace(params_dtype=torch.bfloat16, sequence_parallel=sequence)
    whole = WholeLinear(config, 3, 4, bias=True)
    assert [parameter.sequence_parallel for parameter in whole.parameters()] == [sequence] * 2  # type: ignore[attr-defined]
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.bfloat16}
