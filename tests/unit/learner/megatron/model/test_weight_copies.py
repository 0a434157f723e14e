"""Copies of weights: shared, given back by the last user, in memory that is used again; on a GPU nothing overtakes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from learner.megatron.model import weight_copies
from learner.megatron.model.weight_copies import WeightCopies

CPU = torch.device("cpu")


def parameters(value: float) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((3, 4), value)), torch.nn.Parameter(torch.full((5,), -value))]


def values(weights: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [weight.detach() for weight in weights]


def taken(value: float) -> tuple[list[torch.nn.Parameter], list[torch.Tensor]]:
    return (weights := parameters(value)), values(weights)


def change(weights: list[torch.nn.Parameter], value: float) -> None:
    with torch.no_grad():
        for weight in weights:
            weight.fill_(value)


def test_a_copy_is_of_its_moment_and_in_the_order_of_the_parameters():
    weights = parameters(1.0)
    copy = WeightCopies(CPU, torch.bfloat16).take(weights, values(weights))
    change(weights, 7.0)
    assert [tensor.unique().tolist() for tensor in copy.tensors()] == [[1.0], [-1.0]]
    assert [tuple(tensor.shape) for tensor in copy.tensors()] == [(3, 4), (5,)]
    assert all(copy.by_parameter()[weight] is tensor for weight, tensor in zip(weights, copy.tensors(), strict=True))
    assert copy.nbytes == 17 * 2


def test_memory_is_used_again_when_the_last_user_has_released_it():
    weights, copies = parameters(1.0), WeightCopies(CPU, None)
    first = copies.take(weights, values(weights))
    cached = first.hold()
    first.release()
    change(weights, 2.0)
    second = copies.take(weights, values(weights))
    assert cached.tensors()[0].unique().tolist() == [1.0], "it is still used by the cache"
    assert copies.nbytes == 2 * 128
    cached.release()
    change(weights, 3.0)
    third = copies.take(weights, values(weights))
    assert third.tensors()[0].data_ptr() == cached.tensors()[0].data_ptr()
    assert (second.tensors()[0].unique().tolist(), third.tensors()[0].unique().tolist()) == ([2.0], [3.0])
    assert copies.nbytes == 2 * 128


def test_a_copy_that_nobody_uses_any_more_cannot_be_used_again():
    copy = WeightCopies(CPU, None).take(*taken(1.0))
    copy.release()
    with pytest.raises(AssertionError, match="has been given back"):
        copy.hold()
    with pytest.raises(AssertionError, match="more often than held"):
        copy.release()


class Pending:
    """A stand-in for copies that a GPU has under way: it writes down who waits for them."""

    def __init__(self, tensors: list[torch.Tensor], log: list[str]) -> None:
        self.tensors, self._log = tensors, log

    def wait(self) -> None:
        self._log.append("host waits")

    def protect(self) -> None:
        self._log.append("device waits")


def test_only_who_reads_a_copy_and_who_changes_the_weights_wait_for_it(monkeypatch: pytest.MonkeyPatch):
    log: list[str] = []

    class Buffer:
        nbytes = 0

        def __init__(self, device: Any, content: str) -> None: ...

        def copy(self, tensors: list[torch.Tensor], dtype: Any) -> Pending:
            return Pending(tensors, log)

    monkeypatch.setattr(weight_copies, "HostBuffer", Buffer)
    copies = WeightCopies(torch.device("cuda"), None)
    copies.protect()
    copy = copies.take(*taken(1.0))
    copy.hold()
    assert log == []
    copies.protect()
    assert log == ["device waits"]
    copy.tensors()
    copy.by_parameter()
    assert log == ["device waits", "host waits", "host waits"]
