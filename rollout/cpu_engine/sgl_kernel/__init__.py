"""Stands in for sgl_kernel, of which no CPU build is published. Every name imports; calling one raises.

One function is real: SGLang's CPU allocator always calls it, and it has no PyTorch fallback there. Host memory that SGLang
wants pinned, for LoRA and for the experts that it chose, is ordinary memory: without a GPU torch pins none, and raises. And
the server's processes are forked: new ones would import everything again, two thirds of what a start costs.
"""

import multiprocessing

import torch


def assign_req_to_token_pool_cpu(requests, table, starts, ends, slots, width):
    """Writes the next ``ends[i] - starts[i]`` of ``slots`` to row ``requests[i]`` of ``table``, columns starts[i]:ends[i]."""
    taken = 0
    for row, start, end in zip(requests.tolist(), starts.tolist(), ends.tolist(), strict=True):
        count = end - start
        table[row, start:end] = slots[taken : taken + count].to(table.dtype)
        taken += count


def _without_pinning(function):
    """Wraps a function that makes tensors, so that it ignores ``pin_memory``."""

    def unpinned(*args, pin_memory=False, **options):
        return function(*args, **options)

    return unpinned


class _NoCudaRuntime:
    """Stands in for ``torch.cuda.cudart()``: SGLang locks the memory in which it keeps the experts that it chose."""

    def cudaHostRegister(self, *_arguments):
        return 0

    def cudaHostUnregister(self, *_arguments):
        return 0


def _forking(set_start_method):
    """Wraps ``multiprocessing.set_start_method``, so that processes are forked where new ones are asked for."""

    def forked(method, force=False):
        set_start_method("fork" if method == "spawn" else method, force)

    return forked


if not torch.accelerator.is_available():
    multiprocessing.set_start_method = _forking(multiprocessing.set_start_method)
    for _name in ("arange", "empty", "tensor", "zeros"):
        setattr(torch, _name, _without_pinning(getattr(torch, _name)))
    torch.Tensor.pin_memory = lambda self, *args, **options: self
    torch.cuda.cudart = _NoCudaRuntime


def __getattr__(name):
    # Dunder look-ups (__path__, __spec__, ...) must fail as on any module, or the import system is misled.
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args, **_kwargs):
        raise NotImplementedError(f"sgl_kernel.{name}: no CPU stand-in exists for this kernel")

    return missing
