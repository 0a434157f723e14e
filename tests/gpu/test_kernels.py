"""Fused kernels on a CUDA device against plain operators: forward and backward, and one step of Adam."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.batch.packing import Layout, pack
from learner.batch.types import Sequence
from learner.megatron.model import grouped_experts
from learner.megatron.model.attention import PackedAttention, rotate
from learner.megatron.model.grouped_experts import GroupedProducts, Products, _Experts, products_of
from learner.megatron.model.kernels import PLAIN, Kernels
from learner.megatron.model.packed_row import PackedRow
from learner.megatron.model.rms_norm import RMSNorm
from learner.megatron.model.rotary import Rotary
from learner.megatron.training.trainer import use_fused_adam

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CUDA, BF16, HEADS, DIM = torch.device("cuda"), torch.bfloat16, 8, 64
FREQUENCIES = 1.0 / 100.0 ** (torch.arange(0, DIM, 2) / DIM)
ROTARY = Rotary(FREQUENCIES)


def near(results: list[list[Tensor]], off: float) -> bool:
    found, expected = results
    return all((a.float() - b.float()).norm() <= off * b.float().norm() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("groups", [2, 8])
@pytest.mark.parametrize("lengths", [(700,), (311, 97, 256, 2, 180)])
def test_attention_over_a_whole_row(groups: int, lengths: tuple[int, ...]):
    """Against padded calls in fp32, with padding at the end of the row, whose outputs nobody uses."""
    sequences = [Sequence(torch.zeros(n, dtype=torch.int64), torch.arange(n) >= n // 2, 1.0, 1.0) for n in lengths]
    micro_batch, used = pack(sequences, Layout(multiple=64)).micro_batches[0], sum(lengths)
    draw = torch.Generator("cuda").manual_seed(0)
    shape = (micro_batch.tokens.shape[1], HEADS + 2 * groups, DIM)
    exact = torch.randn(shape, generator=draw, device=CUDA).to(BF16)
    slope = torch.randn(used, HEADS * DIM, generator=draw, device=CUDA)
    results = []
    for kernels, dtype in ((Kernels.select(True, CUDA, BF16, DIM, 1), BF16), (PLAIN, torch.float32)):
        assert kernels.varlen == (dtype == BF16)
        product = exact.to(dtype).requires_grad_()
        row = PackedRow.of(micro_batch, ROTARY, dtype, CUDA, kernels=kernels)
        output = PackedAttention(None)(*product.split([HEADS, groups, groups], 1), None, row)[:used]
        results.append([output, *torch.autograd.grad((output.float() * slope).sum(), product)])
    assert near(results, 2e-2)


def test_compiled_rotation_of_rows_of_many_lengths():
    for tokens in (64, 100, 333, 1024):
        x = torch.randn(tokens, HEADS, DIM, device=CUDA, dtype=BF16, requires_grad=True)
        cos, sin = (torch.randn(tokens, 1, DIM, device=CUDA, dtype=BF16) for _ in range(2))
        results = []
        for fused in (True, False):
            turned = rotate(x, cos, sin, fused)
            results.append([turned, *torch.autograd.grad(turned.float().square().sum(), x)])
        assert near(results, 2e-2)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (BF16, 2e-2)])
def test_norms(dtype: torch.dtype, off: float):
    x = torch.randn(300, HEADS, DIM, device=CUDA, dtype=dtype, requires_grad=True)
    results = []
    for fused in (True, False):
        settings = SimpleNamespace(params_dtype=dtype, sequence_parallel=False, persist_layer_norm=fused)
        norm = RMSNorm(settings, DIM).to(CUDA)
        output = norm(x)
        loss = (output.float() * torch.linspace(-1, 1, DIM, device=CUDA)).sum()
        results.append([output, *torch.autograd.grad(loss, (x, norm.weight))])
    assert near(results, off)


def test_a_step_of_fused_adam_makes_no_copy_of_the_moments():
    start = torch.randn(1 << 22, device=CUDA)
    results, peaks = [], []
    for fused in (True, False):
        weight = torch.nn.Parameter(start.clone())
        adam = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1)
        if fused:
            use_fused_adam([adam])
        for _ in range(3):
            weight.grad = start.square()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            adam.step()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        results.append([weight.detach()])
    assert near(results, 1e-6)
    assert peaks[0] < start.nbytes <= peaks[1]


@pytest.mark.parametrize("counts", [(40, 0, 300, 7), (1, 1, 1, 1)], ids=str)
def test_experts_in_one_product_against_one_product_after_another(counts: tuple[int, ...], monkeypatch):
    hidden, ffn = 128, 64
    draw = torch.Generator("cuda").manual_seed(0)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, device=CUDA).to(BF16).requires_grad_()

    first, second = ([matrix(*shape) for _ in counts] for shape in ((2 * ffn, hidden), (hidden, ffn)))
    x, probs = matrix(sum(counts), hidden), torch.rand(sum(counts), device=CUDA, requires_grad=True)
    assert isinstance(products_of(x, first[0], counts), GroupedProducts)
    results = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(grouped_experts, "products_of", lambda x, weight, counts: Products(counts))
        output = _Experts.apply(x, probs, list(counts), fused, *first, *second)
        results.append([output, *torch.autograd.grad(output.float().square().sum(), (x, probs, *first, *second))])
    assert near([[*map(torch.Tensor.detach, one)] for one in results], 2e-2)
