"""Log-probabilities against float64, and their gradient against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.megatron import logprobs
from learner.megatron.logprobs import vocab_parallel_logprobs


def _case(rows: int, vocab: int, seed: int, scale: float = 3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator) * scale
    targets = torch.randint(vocab, (rows,), generator=generator)
    temperature = torch.rand(rows, generator=generator) + 0.5
    return logits, targets, temperature


def _exact(logits, targets, temperature):
    exact = torch.log_softmax(logits.double() / temperature.double()[:, None], -1)
    return exact.gather(1, targets[:, None])[:, 0], -(exact.exp() * exact).sum(-1)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 9), vocab=st.integers(1, 40), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 3.0, 60.0])
)
def test_equals_float64_and_autograd(rows, vocab, seed, scale):
    logits, targets, temperature = _case(rows, vocab, seed, scale)
    logits.requires_grad_()
    logp, entropy = vocab_parallel_logprobs(logits, targets, temperature)
    expected, expected_entropy = _exact(logits, targets, temperature)
    assert logp.dtype == entropy.dtype == torch.float32
    assert torch.allclose(logp.double(), expected, rtol=1e-6, atol=1e-5)
    assert torch.allclose(entropy.double(), expected_entropy, rtol=1e-5, atol=1e-5)
    assert not entropy.requires_grad
    weight = torch.linspace(-1, 2, rows)
    (mine,) = torch.autograd.grad((logp * weight).sum(), logits)
    (theirs,) = torch.autograd.grad((expected * weight.double()).sum(), logits)
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_by_hand():
    """Two tokens with logits ln 3 and 0: probabilities 3/4 and 1/4; at temperature 1/2 they are 9/10 and 1/10."""
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log()
    logp, entropy = vocab_parallel_logprobs(logits, torch.tensor([0, 1]), torch.tensor([1.0, 0.5]))
    assert logp.exp().tolist() == pytest.approx([0.75, 0.1])
    assert entropy.tolist() == pytest.approx([0.562335, 0.325083], abs=1e-5)


def test_rows_in_chunks(monkeypatch):
    """Cutting the rows changes nothing."""
    logits, targets, temperature = _case(23, 11, 5)
    logits.requires_grad_()
    whole, _ = vocab_parallel_logprobs(logits, targets, temperature)
    (gradient,) = torch.autograd.grad(whole.sum(), logits)
    monkeypatch.setattr(logprobs, "_CHUNK", 40)  # 3 rows at a time
    cut, _ = vocab_parallel_logprobs(logits, targets, temperature)
    assert torch.equal(cut, whole)
    assert torch.equal(torch.autograd.grad(cut.sum(), logits)[0], gradient)


def test_slices_combine_to_the_whole():
    """What two ranks reduce their halves of the vocabulary to gives what one rank gets from the whole."""
    logits, targets, temperature = _case(7, 12, 3, scale=40.0)
    parts = []
    for half, start in ((logits[:, :6], 0), (logits[:, 6:], 6)):
        mine = (targets >= start) & (targets < start + 6)
        parts.append(logprobs._reduce(half / temperature[:, None], (targets - start).where(mine, 0), mine))
    top, total, chosen, moment = logprobs._combine(torch.stack(parts))
    expected, entropy = _exact(logits, targets, temperature)
    assert torch.allclose((chosen - top - total.log()).double(), expected, atol=1e-4)
    assert torch.allclose((total.log() - moment / total).double(), entropy, atol=1e-4)


def test_bfloat16_logits_keep_their_dtype_in_the_gradient():
    logits, targets, temperature = _case(4, 9, 1)
    logits = logits.bfloat16().requires_grad_()
    logp, _ = vocab_parallel_logprobs(logits, targets, temperature)
    expected, _ = _exact(logits, targets, temperature)
    assert torch.allclose(logp.double(), expected, atol=1e-5)  # the arithmetic is fp32: only the logits are rounded
    assert torch.autograd.grad(logp.sum(), logits)[0].dtype == torch.bfloat16
