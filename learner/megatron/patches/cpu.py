"""Runs megatron-core on a machine without CUDA: what it calls the CUDA device becomes the CPU.

What it changes: each module of megatron-core has a global name ``torch``, which is pointed at a view of torch in which
CUDA means the CPU (learner.megatron.patches.cpu_torch). Three places that reach past that name are replaced as well: the
optimizers' test of tensor types, the functions that read and set CUDA random states, and the copy of token counts to the
host. The torch that everybody else imports is untouched, with one exception: ``Tensor.cuda`` returns the tensor itself.
Where a CUDA device exists, nothing is changed.
Why: the same code is developed and tested on machines without a GPU.
Written for: megatron-core 0.16.1 and 0.19.2, torch 2.13.0.
Without it: on a machine without CUDA, building a model or an optimizer raises.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from learner.megatron.patches.cpu_torch import CPU, make_view
from learner.megatron.patches.guard import require_release, require_signature

# Modules that megatron imports late and that mention CUDA: they must be loaded before their `torch` is replaced.
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
    """Makes megatron usable on this machine and returns the device of this process. Call it before megatron is imported.

    Raises:
        PatchError: there is no CUDA device, and megatron-core or torch is not the version that this was written for.
        RuntimeError: there is no CUDA device and megatron is already imported: its modules have bound the real torch.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    require_release("megatron-core")
    if "megatron.core" in sys.modules:
        raise RuntimeError("learner.megatron must be imported before megatron.core: no CUDA device is available here")
    with _no_compilation():
        for name in _MODULES:
            importlib.import_module(name)
    view = make_view()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "megatron" and vars(module).get("torch") is torch:
            vars(module)["torch"] = view
    # GPTModel and the checkpoint loader move tensors with .cuda(); on a build without CUDA the method only raises.
    torch.Tensor.cuda = lambda self, *_, **__: self
    _accept_cpu_gradients()
    _use_cpu_random_state()
    _convert_host_counts()
    return CPU


@contextlib.contextmanager
def _no_compilation() -> Iterator[None]:
    """Makes torch.compile return the function unchanged: ``@jit_fuser`` applies it while megatron is imported.

    Compiling costs seconds and a C++ compiler here, and importing the compiler alone more than a second.
    """
    compile_ = torch.compile
    torch.compile = lambda model=None, **_: model if model is not None else (lambda function: function)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_


# The three functions below import megatron themselves: at the top of this module it would be loaded, and compiled, before
# `_no_compilation` is in effect.


def _accept_cpu_gradients() -> None:
    """Makes CPU tensors name their type as CUDA tensors do while an optimizer is built.

    The optimizers sort parameters by ``tensor.type() == 'torch.cuda.FloatTensor'``.
    """
    from megatron.core.optimizer import distrib_optimizer, optimizer

    for cls in (distrib_optimizer.DistributedOptimizer, optimizer.Float16OptimizerWithFloat16Params):
        cls.__init__ = _with_cuda_type_names(cls.__init__)


def _with_cuda_type_names(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        type_ = torch.Tensor.type

        def cuda_type(self: torch.Tensor, dtype: Any = None, *rest: Any, **more: Any) -> Any:
            if dtype is None:
                return type_(self).replace("torch.", "torch.cuda.", 1)
            return type_(self, dtype, *rest, **more)

        torch.Tensor.type = cuda_type
        try:
            return function(*args, **options)
        finally:
            torch.Tensor.type = type_

    return call


def _use_cpu_random_state() -> None:
    """Makes the random-state tracker use the CPU's generator: it reads torch.cuda.default_generators, which is empty."""
    from megatron.core.tensor_parallel import random

    require_signature(random._get_cuda_rng_state, "(device='cuda', clone=False, graph_safe=False)")
    require_signature(random._set_cuda_rng_state, "(new_state, device=-1, graph_safe=False)")
    random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)


def _convert_host_counts() -> None:
    """Makes the token dispatcher turn token counts into arrays on the CPU too.

    The original converts only tensors that it copies from a GPU; a tensor that is on the host already would stay a tensor,
    which no all-to-all accepts as its split sizes.
    """
    from megatron.core.transformer.moe import token_dispatcher

    require_signature(token_dispatcher.maybe_move_tensor_to_cpu, "(tensor, as_numpy=False, record_stream=False)")

    def move(tensor: Any, as_numpy: bool = False, **_: Any) -> Any:
        return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = move
