"""Runs an unmodified megatron-core on a machine without CUDA: what it calls the CUDA device becomes the CPU.

Each megatron module has a global name ``torch`` of its own. Here that name is pointed at a *view* of torch in which
``torch.cuda`` means the CPU; the torch that everybody else imports is untouched, with one exception (``Tensor.cuda``, which
can only raise here anyway). Where a CUDA device exists nothing of this happens.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

_CPU = torch.device("cpu")
_FACTORIES = (
    *("tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint"),
    *("empty_like", "zeros_like", "ones_like"),
)

# Modules that megatron imports late and that mention CUDA: they must be loaded before their `torch` is exchanged.
_MODULES = (
    "megatron.core.models.gpt",
    "megatron.core.distributed",
    "megatron.core.optimizer",
    "megatron.core.pipeline_parallel",
    "megatron.core.fusions.fused_softmax",
    "megatron.core.transformer.moe.moe_layer",
    "megatron.core.transformer.multi_token_prediction",
    "megatron.core.dist_checkpointing",
    "megatron.core.dist_checkpointing.exchange_utils",
    "megatron.core.dist_checkpointing.strategies.torch",
    "megatron.core.dist_checkpointing.strategies.filesystem_async",
    "megatron.core.dist_checkpointing.strategies.state_dict_saver",
)


@functools.cache
def install() -> torch.device:
    """Makes megatron usable here and returns the device of this process. Call it before anything imports megatron.

    Raises:
        RuntimeError: there is no CUDA device and megatron is already imported: its modules have bound the real torch.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    if "megatron.core" in sys.modules:
        raise RuntimeError("learner.megatron must be imported before megatron.core: no CUDA device is available here")
    with _no_compilation():
        for name in _MODULES:
            importlib.import_module(name)
    view = _torch_view()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "megatron" and vars(module).get("torch") is torch:
            vars(module)["torch"] = view
    # GPTModel and the checkpoint loader move tensors with .cuda(); on a build without CUDA the method only raises.
    torch.Tensor.cuda = lambda self, *_, **__: self
    _accept_cpu_gradients()
    _use_cpu_random_state()
    _make_counts_arrays()
    return _CPU


@contextlib.contextmanager
def _no_compilation() -> Iterator[None]:
    """``@jit_fuser`` is torch.compile, applied while megatron is imported.

    Compiling costs seconds and a C++ compiler here, and importing the compiler alone more than a second.
    """
    compile_ = torch.compile
    torch.compile = lambda model=None, **_: model if model is not None else (lambda function: function)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


class _View(types.ModuleType):
    """A module with some names replaced; all others are looked up in the real one."""

    def __init__(self, real: types.ModuleType, replaced: dict[str, Any]) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(replaced, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)


class _Idle:
    """Stands for a CUDA stream or event: everything handed to it has already happened."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> _Idle:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, _: object) -> float:
        return 0.0

    def record_event(self, *_: object) -> _Idle:
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing  # wait, record, synchronize, wait_stream ...


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _torch_view() -> _View:
    """torch in which ``device="cuda"`` means the CPU."""
    replaced: dict[str, Any] = {name: _on_cpu(getattr(torch, name)) for name in _FACTORIES}
    return _View(torch, {**replaced, "cuda": _cuda_view()})


def _cuda_view() -> _View:
    idle = _Idle()
    ranges = {"range_push": _nothing, "range_pop": _nothing, "range": lambda *_, **__: contextlib.nullcontext()}
    return _View(
        torch.cuda,
        {
            "current_device": lambda: _CPU,
            "set_device": _nothing,
            "synchronize": _nothing,
            "empty_cache": _nothing,
            "Stream": _Idle,
            "Event": _Idle,
            "stream": lambda _: contextlib.nullcontext(),
            "set_stream": _nothing,
            "current_stream": lambda *_: idle,
            "default_stream": lambda *_: idle,
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
    def made(*args: Any, **options: Any) -> torch.Tensor:
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = _CPU
        options.pop("pin_memory", None)  # pinning needs a CUDA driver
        return factory(*args, **options)

    return made


def _accept_cpu_gradients() -> None:
    """The optimizers sort parameters by ``tensor.type() == 'torch.cuda.FloatTensor'`` while they are built."""
    from megatron.core.optimizer import distrib_optimizer, optimizer

    for cls in (distrib_optimizer.DistributedOptimizer, optimizer.Float16OptimizerWithFloat16Params):
        cls.__init__ = _with_cuda_type_names(cls.__init__)


def _with_cuda_type_names(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        type_ = torch.Tensor.type

        def named(self: torch.Tensor, dtype: Any = None, *rest: Any, **more: Any) -> Any:
            if dtype is None:
                return type_(self).replace("torch.", "torch.cuda.", 1)
            return type_(self, dtype, *rest, **more)

        torch.Tensor.type = named
        try:
            return function(*args, **options)
        finally:
            torch.Tensor.type = type_

    return called


def _use_cpu_random_state() -> None:
    """The random-state tracker reaches into torch.cuda.default_generators, of which there are none."""
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _make_counts_arrays() -> None:
    """How many tokens go where comes from the GPU as arrays; what is on the host already would stay a tensor, which no
    all-to-all accepts."""
    from megatron.core.transformer.moe import token_dispatcher

    def move(tensor: Any, as_numpy: bool = False, **_: Any) -> Any:
        return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = move
