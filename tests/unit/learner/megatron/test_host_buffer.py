"""Host memory of copies: made once, exact, and on a GPU filled by copies that nothing overtakes."""

from __future__ import annotations

import contextlib
import gc
import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import learner.megatron  # noqa: F401  makes megatron usable before the imports below
from learner.megatron.host_buffer import HostBuffer, PinError

CPU = torch.device("cpu")


def tensors() -> list[torch.Tensor]:
    return [torch.arange(6.0).view(2, 3), torch.ones(5, dtype=torch.bfloat16), torch.arange(100.0)[10:90:2].view(1, 40)]


def test_copies_are_equal_and_stay_when_the_originals_change():
    originals = tensors()
    copies = HostBuffer(CPU, "a test").copy(originals).tensors
    for original in originals:
        original.zero_()
    for copy, expected in zip(copies, tensors(), strict=True):
        assert copy.dtype == expected.dtype
        assert torch.equal(copy, expected)


def test_copies_are_rounded_to_another_data_type():
    originals = [torch.tensor([1.0, 1.0 + 2**-9, -3.0]), torch.ones(5, 3, dtype=torch.bfloat16)]
    buffer = HostBuffer(CPU, "a test")
    copies = buffer.copy(originals, [torch.bfloat16] * 2).tensors
    assert [copy.dtype for copy in copies] == [torch.bfloat16] * 2
    assert all(torch.equal(copy, one.bfloat16()) for copy, one in zip(copies, originals, strict=True))
    assert buffer.nbytes == 64 + 64
    mixed = [torch.float32, torch.bfloat16]
    assert [copy.dtype for copy in buffer.copy(originals, mixed).tensors] == mixed


def test_a_copy_is_saved_alone():
    """torch.save writes all of a tensor's storage."""
    for copy in HostBuffer(CPU, "a test").copy([torch.ones(3), torch.ones(100_000), torch.ones(3)]).tensors:
        content = io.BytesIO()
        torch.save(copy, content)
        assert content.tell() < copy.nbytes + 4096


def test_memory_is_made_once_and_no_larger_than_needed():
    buffer = HostBuffer(CPU, "a test")
    places = [[copy.data_ptr() for copy in buffer.copy(tensors()).tensors] for _ in range(3)]
    assert places[0] == places[1] == places[2]
    assert buffer.nbytes == 64 + 64 + 192
    buffer.copy([])
    assert buffer.nbytes == 64 + 64 + 192
    assert torch.equal(buffer.copy([torch.arange(500.0)]).tensors[0], torch.arange(500.0))


class Device:
    """A stand-in for torch.cuda that writes down what is asked of it, in order."""

    def __init__(self, error: int = 0) -> None:
        self.log: list[Any] = []
        self._error = error
        self.side = self._stream("side")
        self.main = self._stream("main")

    def _stream(self, name: str) -> Any:
        return SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.log.append((name, "waits for", other.name)),
            wait_event=lambda _: self.log.append((name, "waits for", "event")),
            record_event=lambda: (
                self.log.append((name, "records")) or SimpleNamespace(synchronize=lambda: self.log.append("host waits"))
            ),
        )

    def _register(self, address: int, size: int, flags: int) -> int:
        self.log.append(("pins", size))
        return self._error

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        @contextlib.contextmanager
        def stream(chosen: Any) -> Any:
            self.log.append(("copies on", chosen.name))
            yield

        rt = SimpleNamespace(cudaHostRegister=self._register, cudaHostUnregister=lambda _: self.log.append("unpins"))
        for name, value in {
            "Stream": lambda _: self.side, "stream": stream, "current_stream": lambda: self.main, "cudart": lambda: rt,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)


def test_copies_from_a_gpu_are_pinned_once_and_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch):
    device = Device()
    device.put_in(monkeypatch)
    buffer = HostBuffer(torch.device("cuda"), "a test")
    copy = buffer.copy(tensors())
    once = [("side", "waits for", "main"), ("copies on", "side"), ("side", "records")]
    assert device.log == [("pins", 320 + 64), *once]
    device.log.clear()
    copy.protect()
    copy.wait()
    assert device.log == [("main", "waits for", "event"), "host waits"]
    device.log.clear()
    buffer.copy(tensors())
    assert device.log == once
    del copy
    buffer.copy([torch.ones(1000)])
    assert device.log[len(once) :] == ["unpins", ("pins", 4032 + 64), *once]


def test_memory_stays_pinned_for_as_long_as_a_copy_uses_it_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    """An address that is still pinned when the system gives it away again cannot be pinned by the next buffer (error 712)."""
    device = Device()
    device.put_in(monkeypatch)
    buffer = HostBuffer(torch.device("cuda"), "a test")
    copies = buffer.copy(tensors()).tensors
    del buffer
    gc.collect()
    assert "unpins" not in device.log
    del copies
    gc.collect()
    assert device.log[-1] == "unpins"


def test_memory_that_cannot_be_pinned_is_an_error(monkeypatch: pytest.MonkeyPatch):
    Device(error=2).put_in(monkeypatch)
    with pytest.raises(PinError, match=r"a test needs 0\.0 GB of pinned .*error 2\): give the learner more memory"):
        HostBuffer(torch.device("cuda"), "a test").copy(tensors())
