"""A view of torch in which CUDA means the CPU, for the modules of megatron-core.

What it changes: nothing of torch itself. ``make_view`` returns a module that looks like torch, but whose ``torch.cuda`` and
whose tensor factories with ``device="cuda"`` use the CPU; learner.megatron.patches.cpu puts it in place of the name
``torch`` inside each module of megatron-core.
Why: megatron-core asks for the current CUDA device, CUDA streams and CUDA random states without asking whether CUDA exists.
Written for: torch 2.13.0, megatron-core 0.16.1 and 0.19.2 (the names below are the ones it uses).
Without it: on a machine without CUDA nearly every call into megatron-core raises.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable
from typing import Any

import torch

from learner.megatron.patches.guard import require_release

require_release("torch")

CPU = torch.device("cpu")
_FACTORIES = (
    *("tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint"),
    *("empty_like", "zeros_like", "ones_like"),
)


def make_view() -> types.ModuleType:
    """torch, with ``device="cuda"`` meaning the CPU in tensor factories and with a ``torch.cuda`` that uses the CPU."""
    replaced: dict[str, Any] = {name: _on_cpu(getattr(torch, name)) for name in _FACTORIES}
    return _View(torch, {**replaced, "cuda": _cuda_view()})


class _View(types.ModuleType):
    """A module with some names replaced; all others are looked up in the real one."""

    def __init__(self, real: types.ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(replaced, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


class _CompletedStream:
    """A stand-in for a CUDA stream or event: all work handed to it has already completed."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> _CompletedStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: object) -> float:
        return 0.0

    def record_event(self, *_: object) -> _CompletedStream:
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _do_nothing  # wait, record, synchronize, wait_stream ...


def _do_nothing(*_: Any, **__: Any) -> None:
    return None


def _cuda_view() -> _View:
    stream = _CompletedStream()
    ranges = {
        "range_push": _do_nothing,
        "range_pop": _do_nothing,
        "range": lambda *_, **__: contextlib.nullcontext(),
    }
    return _View(
        torch.cuda,
        {
            "current_device": lambda: CPU,
            "set_device": _do_nothing,
            "synchronize": _do_nothing,
            "empty_cache": _do_nothing,
            "Stream": _CompletedStream,
            "Event": _CompletedStream,
            "stream": lambda _: contextlib.nullcontext(),
            "set_stream": _do_nothing,
            "current_stream": lambda *_: stream,
            "default_stream": lambda *_: stream,
            "nvtx": _View(torch.cuda.nvtx, ranges),
            "manual_seed": torch.manual_seed,
            "get_rng_state": lambda *_, **__: torch.get_rng_state(),
            "set_rng_state": lambda state, *_, **__: torch.set_rng_state(state),
            "memory_allocated": lambda *_: 0,
            "max_memory_allocated": lambda *_: 0,
            "FloatTensor": torch.FloatTensor,
            "HalfTensor": torch.HalfTensor,
            "BFloat16Tensor": torch.BFloat16Tensor,
        },
    )


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def make(*args: Any, **options: Any) -> torch.Tensor:
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = CPU
        options.pop("pin_memory", None)  # pinning needs a CUDA driver
        return factory(*args, **options)

    return make
