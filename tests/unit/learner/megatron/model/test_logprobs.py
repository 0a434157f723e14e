"""Log-probabilities and entropies against float64, and their gradients against autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from learner.megatron.model import logprobs
from learner.megatron.model.logprobs import vocab_parallel_logprobs


def _case(rows: int, vocab: int, seed: int, scale: float = 3.0, width: int = 6):
    """Hidden states and an output layer whose logits are about ``scale`` in size."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator) * scale / width**0.5
    targets = torch.randint(vocab, (rows,), generator=generator)
    temperature = torch.rand(rows, generator=generator) + 0.5
    return hidden.requires_grad_(), weight.requires_grad_(), targets, temperature


def _exact(hidden, weight, targets, temperature):
    exact = torch.log_softmax(hidden.double() @ weight.double().T / temperature.double()[:, None], -1)
    return exact.gather(1, targets[:, None])[:, 0], -(exact.exp() * exact).sum(-1)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 9),
    vocab=st.integers(1, 40),
    seed=st.integers(0, 99),
    scale=st.sampled_from([0.1, 3.0, 40.0]),
    chunk=st.sampled_from([1, 50, 1 << 24]),
    of_entropy=st.sampled_from([0.0, 0.7]),
)
def test_equals_float64_and_autograd(rows, vocab, seed, scale, chunk, of_entropy):
    case = _case(rows, vocab, seed, scale)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logprobs, "_CHUNK", {"cpu": chunk})
        logp, entropy = vocab_parallel_logprobs(*case)
        expected, expected_entropy = _exact(*case)
        assert logp.dtype == entropy.dtype == torch.float32
        assert torch.allclose(logp.double(), expected, rtol=1e-6, atol=3e-5)
        assert torch.allclose(entropy.double(), expected_entropy, rtol=1e-5, atol=3e-5)
        slope = torch.linspace(-1, 2, rows)
        mine = torch.autograd.grad((logp * slope).sum() + of_entropy * (entropy * slope).sum(), case[:2])
    exact = (expected * slope).sum() + of_entropy * (expected_entropy * slope).sum()
    for value, reference in zip(mine, torch.autograd.grad(exact, case[:2]), strict=True):
        assert torch.allclose(value, reference, rtol=1e-4, atol=1e-4)


def test_by_hand():
    """Two tokens with logits ln 3 and 0: probabilities 3/4 and 1/4; at temperature 1/2 they are 9/10 and 1/10."""
    weight = torch.tensor([[3.0], [1.0]]).log()
    targets, temperature = torch.tensor([0, 1]), torch.tensor([1.0, 0.5])
    logp, entropy = vocab_parallel_logprobs(torch.ones(2, 1), weight, targets, temperature)
    assert logp.exp().tolist() == pytest.approx([0.75, 0.1])
    assert entropy.tolist() == pytest.approx([0.562335, 0.325083], abs=1e-5)


def test_gradient_of_the_entropy_alone():
    case = _case(7, 12, 4)
    _, entropy = vocab_parallel_logprobs(*case)
    _, expected = _exact(*case)
    for value, reference in zip(
        torch.autograd.grad(entropy.sum(), case[:2]), torch.autograd.grad(expected.sum(), case[:2]), strict=True
    ):
        assert torch.allclose(value, reference, rtol=1e-4, atol=1e-6)


def test_no_tensor_of_all_logits_beyond_a_chunk(monkeypatch):
    """With 256 rows of a vocabulary of 1000, four rows at a time, no tensor is as large as all logits."""
    made: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made.extend(made_one.numel() for made_one in tree_leaves(result) if isinstance(made_one, torch.Tensor))
            return result

    hidden, weight, targets, temperature = _case(256, 1000, 2)
    monkeypatch.setattr(logprobs, "_CHUNK", {"cpu": 4000})
    with Watch():
        logp, entropy = vocab_parallel_logprobs(hidden, weight, targets, temperature)
        torch.autograd.grad((logp + entropy).sum(), (hidden, weight))
    assert max(made) == weight.numel()
    made.clear()
    monkeypatch.setattr(logprobs, "_CHUNK", {"cpu": 1 << 24})
    logp, _ = vocab_parallel_logprobs(hidden, weight, targets, temperature)
    with Watch():
        torch.autograd.grad(logp.sum(), (hidden, weight))
    assert max(made) == 256_000  # the watch sees the backward pass too


def test_slices_combine_to_the_whole():
    """The numbers of two halves of the vocabulary combine to those of the whole vocabulary."""
    hidden, weight, targets, temperature = _case(7, 12, 3, scale=40.0)
    logits = (hidden @ weight.T).detach()
    parts = []
    for half, start in ((logits[:, :6], 0), (logits[:, 6:], 6)):
        mine = (targets >= start) & (targets < start + 6)
        parts.append(logprobs._reduce(half / temperature[:, None], (targets - start).where(mine, 0), mine))
    top, total, chosen, moment = logprobs._combine(torch.stack(parts))
    expected, entropy = _exact(hidden, weight, targets, temperature)
    assert torch.allclose((chosen - top - total.log()).double(), expected, atol=1e-4)
    assert torch.allclose((total.log() - moment / total).double(), entropy, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_bfloat16_sums_in_fp32(monkeypatch, chunk):
    hidden, weight, targets, temperature = _case(64, 9, 1)
    monkeypatch.setattr(logprobs, "_CHUNK", {"cpu": chunk})
    hidden, weight = hidden.detach().bfloat16().requires_grad_(), weight.detach().bfloat16().requires_grad_()
    logp, _ = vocab_parallel_logprobs(hidden, weight, targets, temperature)
    exact = _exact(hidden, weight, targets, temperature)[0]
    assert torch.allclose(logp.double(), exact, atol=0.1)  # the logits are rounded to bfloat16, nothing after them
    gradients = torch.autograd.grad(logp.sum(), (hidden, weight))
    for value, reference in zip(gradients, torch.autograd.grad(exact.sum(), (hidden, weight)), strict=True):
        assert value.dtype == torch.bfloat16
        assert (value - reference).float().norm() < 2e-2 * reference.float().norm()


@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_padding_of_the_vocabulary_gets_no_probability_and_no_gradient(monkeypatch, chunk):
    """Rows of padding may hold anything: results are those without them."""
    monkeypatch.setattr(logprobs, "_CHUNK", {"cpu": chunk})
    hidden, weight, targets, temperature = _case(7, 12, 3)
    padded = torch.cat([weight.detach(), torch.full((3, weight.shape[1]), 50.0)]).requires_grad_()
    results = []
    for rows, count in ((weight, None), (padded, 12)):
        logp, entropy = vocab_parallel_logprobs(hidden, rows, targets, temperature, vocabulary=count)
        results.append([logp, entropy, *torch.autograd.grad((logp + 0.7 * entropy).sum(), (hidden, rows))])
    for plain, other in zip(*results, strict=True):
        assert torch.equal(plain, other[: len(plain)])
    assert results[1][3].shape == padded.shape
    assert not results[1][3][12:].any()
